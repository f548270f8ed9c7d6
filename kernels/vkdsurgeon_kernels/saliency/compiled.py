"""Accumulation as one loop through `torch.compile`: no widened copy of the gradient."""

from __future__ import annotations

from torch import Tensor

from vkdsurgeon_kernels.compilation import compiled
from vkdsurgeon_kernels.saliency import reference


def accumulate(score: Tensor, gradient: Tensor, squared: bool) -> None:
    """As `reference.accumulate`, for [n] tensors."""
    compiled(reference.accumulate, (gradient.dtype, squared))(score, gradient, squared)
