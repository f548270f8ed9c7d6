"""The masked optimizer, and step sizes that carry over from a tower of width 128 to one of width 1024.

AdamW moves each element by about lr, whatever the element is. How far the output moves then depends on how large the
weight was (rms) and how many of its elements move the same output together (fan-in, of which random directions add up
like the square root). Measured in those units a step means the same at every width: lr = s rms(W) / sqrt(fan-in) for a
matrix or a convolution, lr = 0.004 s for gains and biases, which act on activations of unit size. The dependence on
width is that of maximal-update parametrisation (Yang et al., arXiv 2203.03466), with the rms standing in for what the
initialisation was. See docs/studies/method.md, "Training and stopping".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.training.saliency import SaliencyMask

_VECTOR = 0.004
# A matrix of zeros has no scale of its own, and its owner meant it to learn.
_SMALLEST_RMS = 1e-3


def unit_step(parameter: Parameter) -> float:
    """Learning rate of one parameter at `step_size` 1.

    Args:
        parameter: A weight [out, in, ...] or a vector.
    """
    if parameter.dim() < 2 or parameter.numel() == 0:
        return _VECTOR
    rms = float(parameter.detach().float().square().mean().sqrt())
    fan_in = parameter[0].numel()
    return float(max(rms, _SMALLEST_RMS) / fan_in**0.5)


def build_optimizer(
    parameters: Mapping[str, Parameter],
    mask: SaliencyMask,
    *,
    step_size: float = 1.0,
    relative: bool = True,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    moments: Literal["float32", "int8"] = "float32",
    during_backward: Literal["pack"] | None = "pack",
) -> MaskedAdamW:
    """AdamW on the selected elements; parameters without any stop asking for gradients.

    Args:
        parameters: Parameters by name.
        mask: Which of their elements move.
        step_size: What `take_step` counts multiples of, relative to each weight (`unit_step`).
        relative: False makes `step_size` the learning rate of all weights alike.
        weight_decay: Decoupled decay of the selected elements.
        max_norm: Clip the gradient of the selected elements to this norm; None does not clip.
        moments: How the moments are held, see `MaskedAdamW`.
        during_backward: `pack` moves gradients into a float32 buffer of the selected elements as they arrive, since
            dense ones would live together otherwise, one more copy of the weights. Needs `detach_hooks` at the end.

    Raises:
        ValueError: The mask selects nothing, or a setting is out of range.
    """
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in mask.selected)
    moving = {parameters[name]: chosen for name, chosen in mask.selected.items()}
    groups = [
        {"params": [parameter], "unit_step": step_size * (unit_step(parameter) if relative else 1.0)}
        for parameter in moving
    ]
    return MaskedAdamW(
        groups,
        moving,
        lr=0.0,
        weight_decay=weight_decay,
        max_norm=max_norm,
        moments=moments,
        during_backward=during_backward,
    )


def take_step(optimizer: MaskedAdamW, size: float) -> None:
    """Move the selected elements, and forget the gradient.

    Args:
        optimizer: From `build_optimizer`.
        size: Size of the step, in multiples of the optimizer's `step_size`.
    """
    for group in optimizer.param_groups:
        group["lr"] = size * group["unit_step"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
