"""The operators of saliency: what `torch.compile` and autograd see of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels import library
from vkdsurgeon_kernels.backend import choose
from vkdsurgeon_kernels.bitmask import word_count
from vkdsurgeon_kernels.saliency import compiled, histogram, reference


def _accumulate(score: Tensor, gradient: Tensor, squared: bool, implementation: str) -> None:
    """Add |gradient| or its square to a score, in place; see `functional.accumulate_scores`."""
    if score.numel() == 0:
        return
    choice = choose("saliency_scores", score.device, score.numel(), implementation)
    if choice.implementation == "reference":
        reference.accumulate(score, gradient, squared)
        return
    # Kernels see one run of elements; a score that is not one is worked on as a copy.
    flat = score.contiguous().view(-1)
    if choice.implementation == "triton":
        from vkdsurgeon_kernels.saliency import triton

        triton.accumulate(flat, gradient.contiguous().view(-1), squared)
    else:
        compiled.accumulate(flat, gradient.contiguous().view(-1), squared)
    if not score.is_contiguous():
        score.copy_(flat.view(score.shape))


def _select(scores: Sequence[Tensor], count: int, implementation: str) -> list[Tensor]:
    """Words (`bitmask.BitMask`) of the `count` largest of all scores, ties to the earlier element.

    Args:
        scores: float32 on one device, at least one.
        count: 0 to the number of all elements.
        implementation: A name, or `auto`.

    Returns:
        One [word_count(n)] int32 tensor per score.

    Raises:
        ValueError: A negative or non-finite score.
    """
    total = sum(score.numel() for score in scores)
    choice = choose("saliency_selection", scores[0].device, total, implementation)
    if choice.implementation == "triton":
        from vkdsurgeon_kernels.saliency import triton

        return triton.select(scores, count)
    select = histogram.select if choice.implementation == "histogram" else reference.select
    return select(scores, count)


def _nothing(score: Tensor, gradient: Tensor, squared: bool, implementation: str) -> None:
    return None


def _empty_words(scores: Sequence[Tensor], count: int, implementation: str) -> list[Tensor]:
    return [score.new_empty(word_count(score.numel()), dtype=torch.int32) for score in scores]


library.define(
    "accumulate_scores_(Tensor(a!) score, Tensor gradient, bool squared, str implementation) -> ()",
    _accumulate,
    _nothing,
)
library.define("select_top(Tensor[] scores, int count, str implementation) -> Tensor[]", _select, _empty_words)

accumulate_scores_ = torch.ops.vkdsurgeon.accumulate_scores_.default
select_top = torch.ops.vkdsurgeon.select_top.default
