"""Triton kernels of saliency: accumulation in one pass, and a radix select over the bit patterns of the scores.

The select reads the scores once per 8-bit digit and once to write the mask. Eight bits per digit, not eleven: Triton
counts with warp votes, at a cost per element that grows with the number of bins, and at 256 bins the reads dominate.
Counts are integers, so the order in which programs add them does not matter and the result is deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vkdsurgeon_kernels.bitmask import word_count
from vkdsurgeon_kernels.launch import LAUNCH_OPTIONS, Variant
from vkdsurgeon_kernels.saliency.values import refuse

_BITS = 8
_BINS = 1 << _BITS
# A multiple of a mask's block. Sizes that 16 divides keep wide accesses in spite of the mask at the end.
_BLOCK = 2048
_WARPS = 4
# Enough programs to fill any GPU; each adds its counts to global memory once.
_COUNTING_PROGRAMS = 2048

_INVALID_BIN = tl.constexpr(_BINS - 1)
_INFINITY = tl.constexpr(0x7F800000)
_NEGATIVE_ZERO = tl.constexpr(-(1 << 31))
_DIGIT = tl.constexpr(_BINS - 1)
_BIN_COUNT = tl.constexpr(_BINS)


@triton.jit
def accumulate_kernel(score_ptr, gradient_ptr, n, SQUARED: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    score = tl.load(score_ptr + offsets, mask=inside, other=0.0)
    wide = tl.load(gradient_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    added = wide * wide if SQUARED else tl.abs(wide)
    tl.store(score_ptr + offsets, score + added, mask=inside)


@triton.jit
def _load_keys(keys_ptr, offsets, n):
    keys = tl.load(keys_ptr + offsets, mask=offsets < n, other=0)
    return tl.where(keys == _NEGATIVE_ZERO, 0, keys)


@triton.jit(do_not_specialize=["tiles", "high_bits", "prefix", "shift"])
def count_digits_kernel(keys_ptr, counts_ptr, n, tiles, high_bits, prefix, shift, BLOCK: tl.constexpr):
    bins = tl.arange(0, _BIN_COUNT)
    counts = tl.zeros([_BIN_COUNT], dtype=tl.int32)
    first = tl.program_id(0).to(tl.int64) * tiles * BLOCK
    for tile in range(tiles):
        offsets = first + tile * BLOCK + tl.arange(0, BLOCK)
        keys = _load_keys(keys_ptr, offsets, n)
        invalid = (keys < 0) | (keys >= _INFINITY)
        digits = tl.where(invalid, _INVALID_BIN, (keys >> shift) & _DIGIT)
        wanted = (offsets < n) & (((keys & high_bits) == prefix) | invalid)
        counts += tl.histogram(digits, _BIN_COUNT, mask=wanted)
    tl.atomic_add(counts_ptr + bins, counts.to(tl.int64), mask=counts > 0, sem="relaxed")


@triton.jit(do_not_specialize=["threshold"])
def count_ties_kernel(keys_ptr, ties_ptr, n, threshold, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    tied = (_load_keys(keys_ptr, offsets, n) == threshold) & (offsets < n)
    tl.store(ties_ptr + program, tl.sum(tied.to(tl.int64), axis=0))


@triton.jit(do_not_specialize=["threshold", "room"])
def write_words_kernel(
    keys_ptr, words_ptr, ties_before_ptr, n, words, threshold, room, RANKED: tl.constexpr, BLOCK: tl.constexpr
):
    """Bit per key: above the threshold, or, where RANKED, equal to it and among the first `room` such keys."""
    program = tl.program_id(0).to(tl.int64)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    keys = _load_keys(keys_ptr, offsets, n)
    selected = keys > threshold
    if RANKED:
        tied = (keys == threshold) & (offsets < n)
        rank = tl.load(ties_before_ptr + program) + tl.cumsum(tied.to(tl.int32), axis=0)
        selected = selected | (tied & (rank <= room))
    selected = selected & (offsets < n)
    bits = tl.reshape(selected.to(tl.int32), [BLOCK // 32, 32]) << tl.arange(0, 32)[None, :]
    places = program * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    tl.store(words_ptr + places, tl.sum(bits, axis=1), mask=places < words)


def accumulate(score: Tensor, gradient: Tensor, squared: bool) -> None:
    """Add |gradient| or its square to a score, [n] both, in place; see `functional.accumulate_scores`."""
    n = score.numel()
    accumulate_kernel[(triton.cdiv(n, _BLOCK),)](
        score, gradient, n, SQUARED=squared, BLOCK=_BLOCK, num_warps=_WARPS, **LAUNCH_OPTIONS
    )


def select(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Words of the `count` largest of all scores; see `operator.select_top`."""
    keys = [score.contiguous().view(-1).view(torch.int32) for score in scores]
    threshold, wanted, high_bits = 0, count, 0
    for shift in range(32 - _BITS, -1, -_BITS):
        per_score = _count_digits(keys, high_bits, threshold, shift)
        if count == 0:
            return [torch.zeros(word_count(one.numel()), dtype=torch.int32, device=one.device) for one in keys]
        digit, above = _digit_of(per_score.sum(dim=0), wanted)
        threshold |= digit << shift
        # As a signed 32-bit number, which is what the kernel takes.
        high_bits = -(1 << shift)
        wanted -= above
    ties = per_score[:, digit].tolist()
    words = []
    for one, tied in zip(keys, ties, strict=True):
        words.append(_words(one, threshold, min(wanted, tied), tied))
        wanted -= min(wanted, tied)
    return words


def _count_digits(keys: list[Tensor], high_bits: int, prefix: int, shift: int) -> Tensor:
    """Keys with the prefix by their digit, [scores, 256] int64 on the CPU."""
    counts = torch.zeros(len(keys), _BINS, dtype=torch.int64, device=keys[0].device)
    for one, row in zip(keys, counts, strict=True):
        n = one.numel()
        tiles = max(triton.cdiv(n, _BLOCK * _COUNTING_PROGRAMS), 1)
        programs = triton.cdiv(n, _BLOCK * tiles)
        if programs:
            count_digits_kernel[(programs,)](
                one, row, n, tiles, high_bits, prefix, shift, BLOCK=_BLOCK, num_warps=_WARPS, **LAUNCH_OPTIONS
            )
    found = counts.cpu()
    if high_bits == 0:
        for position, row in enumerate(found):
            if row[_BINS - 1]:
                refuse(position)
    return found


def _digit_of(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The digit of the key of rank `wanted` from the top, and how many keys have a larger one."""
    from_top = counts.flip(0).cumsum(0)
    position = min(int(torch.searchsorted(from_top, wanted)), _BINS - 1)
    return _BINS - 1 - position, int(from_top[position]) - int(counts[_BINS - 1 - position])


def _words(keys: Tensor, threshold: int, room: int, tied: int) -> Tensor:
    n = keys.numel()
    words = torch.empty(word_count(n), dtype=torch.int32, device=keys.device)
    programs = triton.cdiv(n, _BLOCK)
    if programs == 0:
        return words
    ranked = 0 < room < tied
    before = words
    if ranked:
        ties = torch.empty(programs, dtype=torch.int64, device=keys.device)
        count_ties_kernel[(programs,)](keys, ties, n, threshold, BLOCK=_BLOCK, num_warps=_WARPS, **LAUNCH_OPTIONS)
        before = ties.cumsum(0) - ties
    elif room:
        threshold -= 1
    write_words_kernel[(programs,)](
        keys,
        words,
        before,
        n,
        words.numel(),
        threshold,
        room,
        RANKED=ranked,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
        **LAUNCH_OPTIONS,
    )
    return words


def variants() -> list[Variant]:
    """The specialisations to compile ahead of time: each kernel, gradients of each dtype, both kinds of emission."""
    found = [
        _variant(
            "saliency_scores",
            f"{'squared' if squared else 'absolute'}-{dtype}",
            accumulate_kernel,
            {"score_ptr": "*fp32", "gradient_ptr": f"*{dtype}", "n": "i32"},
            {"SQUARED": squared},
            loads=8 if dtype == "fp32" else 6,
            stores=4,
        )
        for dtype, squared in (("bf16", False), ("bf16", True), ("fp16", False), ("fp32", False))
    ]
    keys = {"keys_ptr": "*i32"}
    for size in ("i32", "i64"):
        scalars = dict.fromkeys(("tiles", "high_bits", "prefix", "shift"), "i32")
        types = {**keys, "counts_ptr": "*i64", "n": size, **scalars}
        found.append(_variant("saliency_selection", f"count-digits-{size}", count_digits_kernel, types, {}, loads=4))
        types = {**keys, "ties_ptr": "*i64", "n": size, "threshold": "i32"}
        found.append(_variant("saliency_selection", f"count-ties-{size}", count_ties_kernel, types, {}, loads=4))
        for ranked in (False, True):
            types = {**keys, "words_ptr": "*i32", "ties_before_ptr": "*i64" if ranked else "*i32", "n": size}
            types |= {"words": size, "threshold": "i32", "room": size}
            name = f"write-words-{'ranked-' if ranked else ''}{size}"
            found.append(_variant("saliency_selection", name, write_words_kernel, types, {"RANKED": ranked}, loads=4))
    return found


def _variant(
    operation: str, name: str, kernel: object, types: Mapping[str, str], constants: Mapping[str, bool], **wide: Any
) -> Variant:
    every = {**constants, "BLOCK": _BLOCK}
    return Variant(
        operation=operation,
        name=name,
        kernel=kernel,
        signature={**types, **dict.fromkeys(every, "constexpr")},
        constants=every,
        aligned=tuple(name for name, kind in types.items() if kind.startswith("*") or name in ("n", "words")),
        num_warps=_WARPS,
        elements=_BLOCK,
        **wide,
    )
