"""The packed update as one fused loop through `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from vkdsurgeon_kernels.masked_adamw import reference


@lru_cache
def update_packed() -> Callable[..., None]:
    """`reference.update_packed`, compiled once for every length."""
    return torch.compile(reference.update_packed, dynamic=True)
