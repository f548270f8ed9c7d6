"""The public functions of saliency."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels.backend import choose
from vkdsurgeon_kernels.saliency import histogram, reference


def accumulate_scores(score: Tensor, gradient: Tensor, *, squared: bool = False) -> None:
    """Add |gradient| (or its square, the diagonal Fisher) to a running score, in place.

    Args:
        score: float32, the parameter's shape. Never half precision: squares of small gradients vanish there.
        gradient: The parameter's gradient, any float dtype.
        squared: Add gradient² instead of |gradient|.

    Raises:
        ValueError: The score is not float32, or shapes differ.
    """
    if score.dtype != torch.float32:
        raise ValueError(f"scores are kept in float32, got {score.dtype}")
    if score.shape != gradient.shape:
        raise ValueError(f"score {tuple(score.shape)} and gradient {tuple(gradient.shape)} must have one shape")
    wide = gradient.detach().to(torch.float32)
    if squared:
        score.addcmul_(wide, wide)
    else:
        score.add_(wide.abs())


def select_top_fraction(scores: Sequence[Tensor], fraction: float, *, implementation: str = "auto") -> list[Tensor]:
    """Select the globally largest scores; exactly `round(fraction * total)` of them.

    Ties at the threshold go to the earlier element (tensors in the given order, row-major inside), so the result
    is deterministic and the density exact.

    Args:
        scores: float32 tensors of any shapes, all values finite and >= 0.
        fraction: Share of all elements to select, 0..1.
        implementation: `auto`, `histogram` or `reference`.

    Returns:
        One bool tensor per score, of its shape.

    Raises:
        ValueError: No scores, a fraction outside 0..1, a wrong dtype, a negative or non-finite score.
    """
    if not scores:
        raise ValueError("no scores to select from")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in 0..1, got {fraction}")
    for position, score in enumerate(scores):
        if score.dtype != torch.float32:
            raise ValueError(f"scores are float32, score {position} is {score.dtype}")
        if score.numel() and not (bool(torch.isfinite(score).all()) and float(score.min()) >= 0):
            raise ValueError(f"score {position} has a negative or non-finite value")
    total = sum(score.numel() for score in scores)
    choice = choose("saliency_selection", scores[0].device, total, implementation)
    select = histogram.select if choice.implementation == "histogram" else reference.select
    # Adding +0.0 turns -0.0, whose bit pattern is negative, into +0.0.
    return select([score + 0.0 for score in scores] if _has_negative_zero(scores) else scores, round(fraction * total))


def _has_negative_zero(scores: Sequence[Tensor]) -> bool:
    return any(bool(torch.signbit(score).any()) for score in scores)
