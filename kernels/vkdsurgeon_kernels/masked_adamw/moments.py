"""Moments in eight bits, one scale per block of 1024 elements of the parameter.

First moment: q = sign(m) 127 sqrt(|m| / a), int8. Second: q = 255 (v / a)^(1/4), uint8, rounded up, so that a moment
that is not zero never becomes zero and the step never explodes. a is the largest magnitude in the block. The roots
give the small values the resolution (relative range 1.6e4 and 4e9) that block-wise dynamic codes buy with a table
(Dettmers et al., arXiv 2110.02861), and every implementation computes them alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1.2e-38
"""Smallest scale that is divided by: below it float32 loses precision, and a GPU may flush to zero."""


def decode(average: Tensor, square: Tensor, scales: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[K] int8 and [K] uint8 with [2, B] scales and each element's block -> two [K] float32."""
    first = average.float() / 127
    second = square.float() / 255
    return first * first.abs() * scales[0][blocks], second.square().square() * scales[1][blocks]


def encode(first: Tensor, second: Tensor, average: Tensor, square: Tensor, scales: Tensor, blocks: Tensor) -> None:
    """Write two [K] float32 moments into their codes and scales."""
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
    square.copy_((share.sqrt().sqrt() * 255).ceil().clamp(max=255))
