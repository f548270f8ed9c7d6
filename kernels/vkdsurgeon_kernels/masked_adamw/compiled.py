"""Gather, update and scatter as one loop through `torch.compile`."""

from __future__ import annotations

from torch import Tensor

from vkdsurgeon_kernels.compilation import compiled
from vkdsurgeon_kernels.masked_adamw import reference


def step_parameter(
    parameter: Tensor,
    gradient: Tensor,
    average: Tensor,
    square: Tensor,
    master: Tensor | None,
    scales: Tensor | None,
    positions: Tensor | None,
    hyper: Tensor,
    shrink: Tensor,
    noise: Tensor | None,
    packed: bool,
) -> None:
    """As `reference.step_parameter`, compiled once for parameters of every shape."""
    given = (average, gradient, parameter, master, positions, noise)
    variant = (*(None if tensor is None else tensor.dtype for tensor in given), packed)
    run = compiled(reference.step_parameter, variant)
    flat, dense = parameter.view(-1), gradient.reshape(-1)
    run(flat, dense, average, square, master, scales, positions, hyper, shrink, noise, packed)
