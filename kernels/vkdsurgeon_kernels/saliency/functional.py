"""The public functions of saliency."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BitMask
from vkdsurgeon_kernels.saliency import operator, units

GRANULARITIES = ("element", "row", "tensor", "layer")


def accumulate_scores(score: Tensor, gradient: Tensor, *, squared: bool = False, implementation: str = "auto") -> None:
    """Add |gradient| (or its square, the diagonal Fisher) to a running score, in place.

    Args:
        score: float32, the parameter's shape. Never half precision: squares of small gradients vanish there.
        gradient: The parameter's gradient, any float dtype and strides, on the score's device.
        squared: Add gradient² instead of |gradient|.
        implementation: `auto`, `triton`, `compiled` or `reference`.

    Raises:
        ValueError: The score is not float32, the gradient is not floating point, shapes or devices differ, or an
            implementation that cannot run here was asked for.
    """
    if score.dtype != torch.float32:
        raise ValueError(f"scores are kept in float32, got {score.dtype}; make them with dtype=torch.float32")
    if not isinstance(gradient, Tensor):
        raise ValueError(f"a gradient is a tensor, got {type(gradient).__name__}; skip parameters without a gradient")
    if not gradient.is_floating_point():
        raise ValueError(f"a gradient has a floating-point dtype, got {gradient.dtype}")
    if score.shape != gradient.shape:
        raise ValueError(f"score {tuple(score.shape)} and gradient {tuple(gradient.shape)} must have one shape")
    if score.device != gradient.device:
        raise ValueError(f"score on {score.device} and gradient on {gradient.device}: move one to the other's device")
    operator.accumulate_scores_(score, gradient.detach(), squared, implementation)


def select_top_fraction(
    scores: Iterable[Tensor],
    fraction: float,
    *,
    granularity: str = "element",
    groups: Sequence[Hashable] | None = None,
    implementation: str = "auto",
) -> list[BitMask]:
    """Select the globally largest scores.

    By element, exactly `round(fraction * total)` elements are selected. Ties at the threshold go to the earlier
    element (tensors in the given order, row-major inside), so the result is deterministic and the density exact.

    By a larger unit, a unit's score is the mean over its elements (in float64), and units are taken from the best down,
    ties to the earlier one, as many as bring the number of elements nearest to that budget: the smaller number where
    two are equally near, and at least one unit where the budget is not zero.

    Args:
        scores: float32 tensors of any shapes on one device, all values finite and >= 0 (-0.0 counts as 0.0).
        fraction: Share of all elements to select, 0..1.
        granularity: `element`; `row`, a slice along the first dimension (an element, of a vector or scalar);
            `tensor`; or `layer`, all tensors of one group.
        groups: The group of each score, such as the name of its block; for `layer` only.
        implementation: `auto`, `triton`, `histogram` or `reference`; chooses only for `element`, since larger units
            are few.

    Returns:
        One mask per score, of its shape and on its device.

    Raises:
        ValueError: No scores, a fraction outside 0..1, a wrong dtype, several devices, a negative or non-finite score,
            an unknown granularity, groups missing or not one per score, or an implementation that cannot run here.
    """
    if isinstance(scores, Tensor):
        raise ValueError(f"scores are one tensor {tuple(scores.shape)}; give a list, with a tensor for each parameter")
    scores = list(scores)
    if not scores:
        raise ValueError("no scores to select from; give at least one score tensor")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in 0..1, got {fraction}")
    for position, score in enumerate(scores):
        if not isinstance(score, Tensor):
            raise ValueError(f"scores are tensors, score {position} is a {type(score).__name__}; give the values alone")
        if score.dtype != torch.float32:
            raise ValueError(f"scores are float32, score {position} is {score.dtype}; accumulate in float32")
        if score.device != scores[0].device:
            raise ValueError(
                f"scores live on one device, score {position} is on {score.device}, not {scores[0].device}"
            )
    if granularity not in GRANULARITIES:
        raise ValueError(f"unknown granularity {granularity!r}; expected one of {', '.join(GRANULARITIES)}")
    if (granularity == "layer") != (groups is not None):
        raise ValueError(f"groups are for granularity 'layer', which needs them; got {granularity!r} and {groups!r}")
    if groups is not None and len(groups) != len(scores):
        raise ValueError(f"one group per score is needed, got {len(groups)} groups for {len(scores)} scores")
    count = round(fraction * sum(score.numel() for score in scores))
    detached = [score.detach() for score in scores]
    if granularity == "element":
        words = operator.select_top(detached, count, implementation)
        return [BitMask(one, score.shape) for one, score in zip(words, scores, strict=True)]
    if groups is not None:
        return units.select(detached, count, units.by_group(groups))
    return units.select(detached, count, (units.by_row if granularity == "row" else units.by_tensor)(detached))
