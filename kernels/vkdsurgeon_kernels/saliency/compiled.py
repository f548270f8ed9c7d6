"""Accumulation as one loop through `torch.compile`: no widened copy of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from vkdsurgeon_kernels.saliency import reference


@lru_cache
def accumulate() -> Callable[..., None]:
    """`reference.accumulate` for [n] tensors, compiled once for every length."""
    return torch.compile(reference.accumulate, dynamic=True, fullgraph=True)
