"""The masked step in plain PyTorch, parameter by parameter.

AdamW is algorithm 2 of Loshchilov & Hutter, arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BLOCK
from vkdsurgeon_kernels.masked_adamw import moments, rounding

COLUMNS = ("lr", "decay", "beta1", "rest1", "beta2", "rest2", "unbias1", "unbias2", "eps")
"""Columns of `hyper`. The rests 1 - beta come separately: taken in float32, 1 - 0.999 would be off by 5e-5."""


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
    """Move the selected elements of one parameter, in place.

    Args:
        parameter: Any shape, contiguous.
        gradient: The parameter's shape, or [K] when `packed`.
        average: [K] first moment, float32 (float64 for float64 parameters) or int8 with `scales`.
        square: [K] second moment, as `average`, uint8 with `scales`.
        master: [K] values at full precision, or None; see `master_of`.
        scales: [2, blocks] float32, see `moments`, or None.
        positions: [K] selected elements in row-major order; None when all are.
        hyper: [9], see `COLUMNS`; tensors, so that a schedule never recompiles.
        shrink: Scalar that clips the gradient.
        noise: Scalar int64 seed, for the codes of the second moment and, without `master`, for the stochastic rounding
            of bfloat16; None where there is neither.
        packed: Whether the gradient holds the selected elements only.
    """
    flat, index = parameter.view(-1), None if positions is None else positions.long()
    dense = gradient.reshape(-1)
    slope = (dense if packed or index is None else dense[index]).to(hyper.dtype) * shrink
    held = flat if index is None else flat[index]
    value = held.to(hyper.dtype) if master is None else master_of(master, held)
    lr, decay, beta1, rest1, beta2, rest2, unbias1, unbias2, eps = hyper.unbind()
    blocks = None
    if scales is None:
        first, second = average, square
    else:
        blocks = (torch.arange(flat.numel(), device=flat.device) if index is None else index) // BLOCK
        first, second = moments.decode(average, square, scales, blocks)
    first = first * beta1 + slope * rest1
    second = second * beta2 + slope * slope * rest2
    value = value * decay - lr * (first * unbias1) / ((second * unbias2).sqrt() + eps)
    if scales is None or blocks is None:
        average.copy_(first)
        square.copy_(second)
    else:
        assert noise is not None
        moments.encode(first, second, average, square, scales, blocks, noise)
    if master is not None:
        master.copy_(value)
    if noise is not None and master is None and parameter.dtype == torch.bfloat16:
        rounded = rounding.stochastic(value, noise)
    else:
        rounded = value.to(parameter.dtype)
    if index is None:
        flat.copy_(rounded)
    else:
        flat[index] = rounded


def master_of(master: Tensor, held: Tensor) -> Tensor:
    """Values at full precision, in agreement with what the parameter holds.

    A master that no longer rounds to its parameter is stale: somebody wrote other weights into it, as a restored best
    state is, and a step from the old master would undo that.

    Args:
        master: [K] float32.
        held: [K] the parameter's elements, in its dtype.
    """
    # Bits, because a compiled program would compare before it rounds.
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[held.element_size()]
    same = master.to(held.dtype).view(bits) == held.view(bits)
    return torch.where(same, master, held.to(master.dtype))


def square_sum(gradients: Sequence[Tensor], positions: Sequence[Tensor | None], packed: bool) -> Tensor:
    """Sum of the squares of the selected gradient of all parameters, a scalar of at least float32."""
    sums = []
    for gradient, where in zip(gradients, positions, strict=True):
        flat = gradient.reshape(-1)
        chosen = flat if packed or where is None else flat[where.long()]
        sums.append(chosen.to(torch.promote_types(chosen.dtype, torch.float32)).square().sum())
    return torch.stack(sums).sum()


def accumulate(packed: Tensor, gradient: Tensor, positions: Tensor | None) -> None:
    """Add the selected elements of a dense gradient to the packed one, in place."""
    flat = gradient.reshape(-1)
    packed.add_(flat if positions is None else flat[positions.long()])
