"""Points around the student where the forget loss is to be low as well, so that its minimum is wide.

Both displacements are measured in unit steps u of each weight (`step_size`), so a size means the same at every width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.hardening.excursion import Excursion


def add_noise(
    excursion: Excursion,
    weights: Mapping[str, Parameter],
    units: Mapping[str, float],
    *,
    size: float,
    generator: torch.Generator,
) -> None:
    """theta + sigma u n, n standard normal: the loss smoothed over weights.

    A one-sample estimate of the loss convolved with a Gaussian over weights (LPF-SGD, arXiv 2201.08025).

    Args:
        excursion: The excursion that the weights are on.
        weights: Parameters by name.
        units: Unit step of each.
        size: sigma.
        generator: Source of the noise; on the CPU, so that every device draws the same.
    """
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=generator)
        excursion.move(name, (noise * (size * units[name])).to(weight.device))


def climb(excursion: Excursion, gradient: Mapping[str, Tensor], units: Mapping[str, float], *, size: float) -> None:
    """theta + rho sqrt(n) u^2 g / |u g|: the steepest ascent of the loss within |displacement / u| <= rho sqrt(n).

    Sharpness-aware minimisation (arXiv 2010.01412, equation 2) with the adaptive norm of arXiv 2102.11600, scaled so
    that rho is the RMS of the displacement over the n elements in units.

    Args:
        excursion: The excursion that the weights are on.
        gradient: g, by parameter; others stay.
        units: u.
        size: rho.
    """
    squares = sum(float((value.float() * units[name]).square().sum()) for name, value in gradient.items())
    count = sum(value.numel() for value in gradient.values())
    if squares <= 0:
        return
    for name, value in gradient.items():
        excursion.move(name, value.float() * (units[name] ** 2 * size * (count / squares) ** 0.5))
