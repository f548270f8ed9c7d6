"""Moments in eight bits, one scale per block of 1024 elements of the parameter.

First moment: q = sign(m) 127 sqrt(|m| / a), int8, to nearest. Second: q = 255 (v / a)^(1/4), uint8. a is the largest
magnitude in the block. The roots give the small values the resolution (relative range 1.6e4 and 4e9) that block-wise
dynamic codes buy with a table (Dettmers et al., arXiv 2110.02861), and every implementation computes them alike.

A step changes the second moment by a thousandth, a code by some hundredths. Rounding to nearest would freeze it,
rounding up lift it at every step, so it goes to one of the two neighbours with probabilities that make the expectation
of v exact (`rounding`). What is not zero never becomes zero, so that the step never explodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vkdsurgeon_kernels.masked_adamw.rounding import noise_bits

OTHER = 0x2545F491
"""Turns the seed of a parameter's rounding into that of its second moment's, which must not depend on it."""

TINY = 1.2e-38
"""Smallest scale that is divided by: below it float32 loses precision, and a GPU may flush to zero."""


def decode(average: Tensor, square: Tensor, scales: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[K] int8 and [K] uint8 with [2, B] scales and each element's block -> two [K] float32."""
    first = average.float() / 127
    return first * first.abs() * scales[0][blocks], _power(square.float()) * scales[1][blocks]


def encode(
    first: Tensor, second: Tensor, average: Tensor, square: Tensor, scales: Tensor, blocks: Tensor, seed: Tensor
) -> None:
    """Write two [K] float32 moments into their codes and scales; `seed` as of `rounding.noise_bits`."""
    scales.copy_(
        torch.stack(
            [
                torch.zeros_like(scales[row]).scatter_reduce(0, blocks, moment.abs(), "amax")
                for row, moment in enumerate((first, second))
            ]
        )
    )
    share = first.abs() / scales[0][blocks].clamp_min(TINY)
    average.copy_((share.sqrt() * 127).round() * first.sign())
    share = second / scales[1][blocks].clamp_min(TINY)
    below = (share.sqrt().sqrt() * 255).floor()
    low, high = _power(below), _power(below + 1)
    noise = noise_bits(torch.arange(len(second), device=second.device), seed ^ OTHER) / 65536
    code = below + ((share - low) / (high - low) > noise)
    square.copy_(torch.maximum(code, (second > 0).to(code.dtype)).clamp(max=255))


def _power(code: Tensor) -> Tensor:
    return (code / 255).square().square()
