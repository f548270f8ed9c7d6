"""Exact selection in bounded memory: two 16-bit histograms over the bit patterns of the scores.

The bit pattern of a non-negative float32, read as an integer, grows with the value. The first histogram finds the
upper 16 bits of the threshold, the second, over the scores that share them, the lower 16: the threshold is exact
without sorting and without a copy of the scores. What cannot be ranked shows in the first histogram, without a pass
of its own.

NumPy works through chunks that stay in the cache. torch would start and join its threads for each operation on a chunk,
which costs more than it saves, and far more where other work keeps a core busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BLOCK, word_count
from vkdsurgeon_kernels.saliency.values import refuse

# Whole blocks of a mask.
_CHUNK = 256 * BLOCK
_BINS = 1 << 16
_SIGN_BIN = 1 << 15
_INFINITY_BIN = 0x7F80
_NEGATIVE_ZERO = -(1 << 31)
_MAGNITUDE = 0x7FFFFFFF

Array = np.ndarray[Any, Any]


def select(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Words of the `count` largest of all scores; see `operator.select_top`."""
    keys = [score.contiguous().view(-1).view(torch.int32) for score in scores]
    counts = np.zeros(_BINS, dtype=np.int64)
    for position, one in enumerate(keys):
        counts += _upper_halves(one, position)
    if count == 0:
        return [torch.zeros(word_count(one.numel()), dtype=torch.int32, device=one.device) for one in keys]
    upper, above = _bin_of(counts, count)
    lower, above_within = _bin_of(_lower_halves(keys, upper), count - above)
    return _emit(keys, (upper << 16) | lower, count - above - above_within)


def _chunks(keys: Tensor) -> Iterator[Array]:
    for chunk in keys.split(_CHUNK):
        yield chunk.cpu().numpy()


def _upper_halves(keys: Tensor, position: int) -> Array:
    """How often each value of the upper 16 bits occurs, [65536] int64; refuses keys that have no rank."""
    counts = np.zeros(_BINS, dtype=np.int64)
    for chunk in _chunks(keys):
        counts += np.bincount(chunk.view(np.uint32) >> 16, minlength=_BINS)
    zeros = int(counts[_SIGN_BIN])
    # Negative zero shares its upper half with the smallest negative numbers.
    if counts[_INFINITY_BIN:].sum() > zeros or (zeros and _negative_zeros(keys) != zeros):
        refuse(position)
    counts[_SIGN_BIN] = 0
    counts[0] += zeros
    return counts


def _negative_zeros(keys: Tensor) -> int:
    return sum(int(np.count_nonzero(chunk == _NEGATIVE_ZERO)) for chunk in _chunks(keys))


def _ranked_chunks(keys: Tensor, upper: int) -> Iterator[Array]:
    """Chunks whose order around a threshold with these upper 16 bits is that of the scores."""
    for chunk in _chunks(keys):
        # Negative zero, the only key with a sign, is out of place only where it can tie with zero.
        yield chunk & _MAGNITUDE if upper == 0 else chunk


def _lower_halves(keys: Sequence[Tensor], upper: int) -> Array:
    """Histogram of the lower 16 bits of the keys with these upper 16 bits, [65536] int64."""
    counts = np.zeros(_BINS, dtype=np.int64)
    for one in keys:
        for chunk in _ranked_chunks(one, upper):
            shared = chunk[(chunk >> 16) == upper]
            if shared.size:
                counts += np.bincount(shared & (_BINS - 1), minlength=_BINS)
    return counts


def _bin_of(counts: Array, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest key, and how many keys lie above that bin."""
    from_top = counts[::-1].cumsum()
    position = int(np.searchsorted(from_top, rank))
    above = int(from_top[position - 1]) if position else 0
    return _BINS - 1 - position, above


def _emit(keys: Sequence[Tensor], threshold: int, ties_left: int) -> list[Tensor]:
    """Words of the keys above the threshold and of the first `ties_left` equal to it."""
    masks = []
    for one in keys:
        words = np.zeros(word_count(one.numel()) * 4, dtype=np.uint8)
        written = 0
        for chunk in _ranked_chunks(one, threshold >> 16):
            selected = chunk > threshold
            if ties_left:
                tied = np.flatnonzero(chunk == threshold)[:ties_left]
                selected[tied] = True
                ties_left -= tied.size
            bits = np.packbits(selected, bitorder="little")
            words[written : written + bits.size] = bits
            written += bits.size
        masks.append(torch.from_numpy(words.view(np.int32)).to(one.device))
    return masks
