"""Exact selection in bounded memory: two 16-bit histograms over the bit patterns of the scores.

The bit pattern of a non-negative float32, read as an integer, grows with the value. The first histogram finds the
upper 16 bits of the threshold, the second, over the scores that share them, the lower 16: the threshold is exact
without sorting and without a copy of the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 22
_BINS = 1 << 16


def select(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest of all scores, ties broken by element order; see `face.select_top_fraction`."""
    if count == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    high, above = _bin_of(_histogram(scores, None), count)
    low, above_within = _bin_of(_histogram(scores, high), count - above)
    threshold = (high << 16) | low
    ties_left = count - above - above_within
    masks = []
    for score in scores:
        keys = score.contiguous().view(torch.int32)
        mask = keys > threshold
        if ties_left > 0:
            tied = (keys == threshold).reshape(-1)
            tied_here = int(tied.sum())
            if tied_here > ties_left:
                tied = tied & (tied.to(torch.int32).cumsum(0) <= ties_left)
            mask |= tied.view(mask.shape)
            ties_left -= min(tied_here, ties_left)
        masks.append(mask)
    return masks


def _chunks(scores: Sequence[Tensor]) -> Iterator[Tensor]:
    for score in scores:
        yield from score.contiguous().view(torch.int32).reshape(-1).split(_CHUNK)


def _histogram(scores: Sequence[Tensor], high: int | None) -> Tensor:
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for keys in _chunks(scores):
        if high is None:
            digits = keys >> 16
        else:
            digits = keys[(keys >> 16) == high] & 0xFFFF
        counts += torch.bincount(digits, minlength=_BINS).cpu()
    return counts


def _bin_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest key, and how many keys lie above that bin."""
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, rank))
    above = int(from_top[position - 1]) if position else 0
    return _BINS - 1 - position, above
