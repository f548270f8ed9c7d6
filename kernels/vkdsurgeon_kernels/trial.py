"""The smallest Triton kernel, to find out whether any can be built and run here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _twice_kernel(values, found, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(found + at, tl.load(values + at) * 2 + 1)


def twice(values: torch.Tensor) -> torch.Tensor:
    """Twice a tensor of 64 values, plus one."""
    found = torch.empty_like(values)
    _twice_kernel[(1,)](values, found, SIZE=64)
    return found
