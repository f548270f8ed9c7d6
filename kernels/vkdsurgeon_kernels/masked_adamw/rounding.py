"""Stochastic rounding, to bfloat16 and of eight-bit moments: up or down so that the expectation is exact.

The noise is a hash of the element's position, the parameter and the step, not a stream: every implementation draws
the same bits, a resumed run draws what the straight run drew.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
# Below 2 ** 31, so that the product with a 32-bit number stays inside int64, where overflow would be undefined.
MIX_1, MIX_2 = 0x21F0AAAD, 0x735A2D97
GOLDEN = 0x9E3779B9


def seed_of(step: int, parameter: int, seed: int) -> int:
    """The 31-bit seed of one parameter's step."""
    return ((seed * GOLDEN) ^ (step * MIX_1) ^ (parameter * MIX_2)) & 0x7FFFFFFF


def noise_bits(position: Tensor, seed: Tensor) -> Tensor:
    """16 random bits for each position.

    Args:
        position: [K] int64.
        seed: Scalar int64 below 2 ** 31.

    Returns:
        [K] int64 in 0 .. 65535.
    """
    x = (position & WORD) ^ seed
    x = (((x ^ (x >> 16)) & WORD) * MIX_1) & WORD
    x = (((x ^ (x >> 15)) & WORD) * MIX_2) & WORD
    return (x ^ (x >> 15)) & 0xFFFF


def stochastic(value: Tensor, seed: Tensor) -> Tensor:
    """Round [K] float32 to bfloat16; infinities and NaN stay what they are."""
    bits = value.view(torch.int32)
    noise = noise_bits(torch.arange(value.numel(), device=value.device), seed).to(torch.int32)
    # Whatever is added to the 16 bits that bfloat16 lacks, the carry moves the magnitude up by one unit at most.
    moved = ((bits + noise) & -0x10000).view(torch.float32)
    return torch.where(value.isfinite(), moved, value).to(torch.bfloat16)
