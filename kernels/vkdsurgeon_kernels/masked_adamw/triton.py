"""The masked step on the GPU: all parameters in one launch, state read and written for the selected elements only.

A program takes 1024 selected elements from a list of positions: moments and masters lie side by side and move in
128-bit vectors, values and gradients are gathered. Per element of a bfloat16 parameter at density r that is 6 + 28 r
bytes where every sector of 32 bytes holds a selected element. Moments in eight bits have a scale per block of the
parameter, so there a program takes a block, and finds its selected elements from a bit each: 6 + 1/8 + 12 r bytes.

An H200 took 2.6 ms for 302 M elements over bits with float32 moments at density 0.25, a third of its copy rate: every
element costs the whole update, and 117 registers leave four programs on a multiprocessor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BLOCK
from vkdsurgeon_kernels.launch import LAUNCH_OPTIONS, Variant
from vkdsurgeon_kernels.masked_adamw.moments import OTHER, TINY
from vkdsurgeon_kernels.masked_adamw.rounding import MIX_1, MIX_2

_WORDS = 32
_WARPS = 4
# Four elements for each thread, one vector of float32: 48 registers, and five programs on a multiprocessor of sm_90.
_LIST_WARPS = 8
_ALIGNMENT = 16

# Columns of the table of addresses and sizes, one row per parameter.
_PARAMETER, _GRADIENT, _AVERAGE, _SQUARE, _MASTER, _SCALES, _WORDS_AT, _POSITIONS, _SIZE, _FIRST, _SEED, _COLUMNS = (
    tl.constexpr(column) for column in range(12)
)
_LR, _DECAY, _BETA1, _REST1, _BETA2, _REST2, _UNBIAS1, _UNBIAS2, _EPS, _HYPER = (
    tl.constexpr(column) for column in range(10)
)
_MIX_1, _MIX_2, _OTHER, _TINY = (tl.constexpr(number) for number in (MIX_1, MIX_2, OTHER, TINY))


@triton.jit
def _own_row(table, parameter_of_block):
    """The number of this program, that of the parameter it works on, and the parameter's row of the table."""
    program = tl.program_id(0).to(tl.int64)
    which = tl.load(parameter_of_block + program).to(tl.int64)
    return program, which, table + which * _COLUMNS


@triton.jit
def _pointer(row, column: tl.constexpr, kind: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(row + column).to(kind)
    # The hint must sit on the pointer: the compiler does not carry it over from the integer.
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _selection(row, block, WORDS: tl.constexpr):
    """Bits of a block's elements, [32, 32]; their positions among the selected of the block; how many those are; how
    many the parameter has before them.

    Positions in the block are 32-bit and what lies before it is added to scalar pointers: 64-bit positions would take
    twice the registers, and a third of the programs in flight.
    """
    word_at = tl.load(row + _WORDS_AT).to(tl.pointer_type(tl.int32)) + block * WORDS
    words = tl.load(word_at + tl.arange(0, WORDS))
    bits = (words[:, None] >> tl.arange(0, 32)[None, :]) & 1
    per_word = tl.sum(bits, axis=1)
    before_word = tl.cumsum(per_word, axis=0) - per_word
    within = tl.cumsum(bits, axis=1) - bits
    before_block = tl.load(tl.load(row + _POSITIONS).to(tl.pointer_type(tl.int64)) + block)
    return bits != 0, before_word[:, None] + within, tl.sum(per_word, axis=0), before_block


@triton.jit
def _block_offsets(left, ALIGNED: tl.constexpr, WORDS: tl.constexpr):
    """Offsets of a block's elements, [32, 32] int32, and which of them exist when so many are left."""
    left = tl.minimum(left, WORDS * 32).to(tl.int32)
    if ALIGNED:
        left = tl.multiple_of(left, 8)
    offset = tl.arange(0, WORDS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    return offset, offset < left


@triton.jit
def _noise_bits(position, seed):
    """As `rounding.noise_bits`."""
    x = position.to(tl.uint32) ^ seed.to(tl.uint32)
    x = (x ^ (x >> 16)) * _MIX_1
    x = (x ^ (x >> 15)) * _MIX_2
    return (x ^ (x >> 15)) & 0xFFFF


@triton.jit
def _power(code):
    share = code / 255
    return (share * share) * (share * share)


@triton.jit
def _stochastic(value, position, seed):
    """As `rounding.stochastic`, still float32 with the low 16 bits zero."""
    noise = _noise_bits(position, seed)
    bits = value.to(tl.uint32, bitcast=True)
    moved = ((bits + noise) & 0xFFFF0000).to(tl.float32, bitcast=True)
    finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(finite, moved, value)


@triton.jit
def _master(master, held):
    """As `reference.master_of`."""
    return tl.where(master.to(held.dtype) == held, master, held.to(tl.float32))


@triton.jit
def _updated(value, slope, average, square, hyper):
    average = average * tl.load(hyper + _BETA1) + slope * tl.load(hyper + _REST1)
    square = square * tl.load(hyper + _BETA2) + slope * slope * tl.load(hyper + _REST2)
    root = tl.sqrt(square * tl.load(hyper + _UNBIAS2)) + tl.load(hyper + _EPS)
    value = value * tl.load(hyper + _DECAY) - tl.load(hyper + _LR) * (average * tl.load(hyper + _UNBIAS1)) / root
    return value, average, square


@triton.jit
def masked_adamw_bitmap_kernel(
    table,  # [P, 11] int64
    parameter_of_block,  # [blocks] int32
    hyper,  # [P, 9] float32
    shrink,  # [] float32
    parameter_like,  # any parameter, for its dtype
    gradient_like,
    MASTER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    PACKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    WORDS: tl.constexpr,
):
    program, which, row = _own_row(table, parameter_of_block)
    hyper += which * _HYPER
    block = program - tl.load(row + _FIRST)
    bits, position, selected, before = _selection(row, block, WORDS)
    if selected == 0:
        return
    size = tl.load(row + _SIZE)
    start = block * (WORDS * 32)
    offset, inside = _block_offsets(size - start, ALIGNED, WORDS)

    parameter_at = _pointer(row, _PARAMETER, parameter_like.dtype, ALIGNED) + start + offset
    gradient_at = _pointer(row, _GRADIENT, gradient_like.dtype, ALIGNED)
    average_at, square_at = tl.load(row + _AVERAGE), tl.load(row + _SQUARE)
    if PACKED:
        slope = tl.load(gradient_at + before + position, mask=bits, other=0.0).to(tl.float32)
    else:
        slope = tl.load(gradient_at + start + offset, mask=inside, other=0.0).to(tl.float32)
    slope *= tl.load(shrink)
    old = tl.load(parameter_at, mask=inside, other=0.0)
    if MASTER:
        master_at = tl.load(row + _MASTER).to(tl.pointer_type(tl.float32)) + before + position
        value = _master(tl.load(master_at, mask=bits, other=0.0), old)
    else:
        value = old.to(tl.float32)

    scale_at = tl.load(row + _SCALES).to(tl.pointer_type(tl.float32)) + block
    blocks = (size + (WORDS * 32 - 1)) // (WORDS * 32)
    average_at = average_at.to(tl.pointer_type(tl.int8)) + before + position
    square_at = square_at.to(tl.pointer_type(tl.uint8)) + before + position
    first = tl.load(average_at, mask=bits, other=0).to(tl.float32) / 127
    first = first * tl.abs(first) * tl.load(scale_at)
    second = _power(tl.load(square_at, mask=bits, other=0).to(tl.float32)) * tl.load(scale_at + blocks)

    value, first, second = _updated(value, slope, first, second, hyper)

    first_scale = tl.max(tl.max(tl.where(bits, tl.abs(first), 0.0), axis=1), axis=0)
    second_scale = tl.max(tl.max(tl.where(bits, second, 0.0), axis=1), axis=0)
    # The old scales are read by every lane above; without the barrier a fast warp would overwrite them too soon.
    tl.debug_barrier()
    tl.store(scale_at, first_scale)
    tl.store(scale_at + blocks, second_scale)
    code = tl.floor(tl.sqrt(tl.abs(first) / tl.maximum(first_scale, _TINY)) * 127 + 0.5)
    tl.store(average_at, tl.where(first < 0, -code, code).to(tl.int8), mask=bits)
    share = second / tl.maximum(second_scale, _TINY)
    below = tl.floor(tl.sqrt(tl.sqrt(share)) * 255)
    low, high = _power(below), _power(below + 1)
    noise = _noise_bits(before + position, tl.load(row + _SEED) ^ _OTHER).to(tl.float32) / 65536
    code = below + tl.where((share - low) / (high - low) > noise, 1.0, 0.0)
    code = tl.maximum(code, tl.where(second > 0, 1.0, 0.0))
    tl.store(square_at, tl.minimum(code, 255.0).to(tl.uint8), mask=bits)
    if MASTER:
        tl.store(master_at, value, mask=bits)
    if STOCHASTIC:
        value = _stochastic(value, before + position, tl.load(row + _SEED))
    tl.store(parameter_at, tl.where(bits, value.to(old.dtype), old), mask=inside)


@triton.jit
def _listed(row, program, LENGTH: tl.constexpr):
    """The first of a program's selected elements; offsets from it, [LENGTH] int32; how many of them exist."""
    base = (program - tl.load(row + _FIRST)) * LENGTH
    left = tl.minimum(tl.load(row + _SIZE) - base, LENGTH).to(tl.int32)
    return tl.multiple_of(base, LENGTH), tl.arange(0, LENGTH), left


@triton.jit
def _list_step(
    row,
    hyper,
    shrink,
    parameter_like,
    gradient_like,
    positions_like,
    base,
    offset,
    valid,
    MASTER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    PACKED: tl.constexpr,
):
    position = base + offset
    element = tl.load(_pointer(row, _POSITIONS, positions_like.dtype, True) + position, mask=valid, other=0)
    parameter_at = tl.load(row + _PARAMETER).to(parameter_like.dtype) + element
    gradient_at = _pointer(row, _GRADIENT, gradient_like.dtype, True) + (position if PACKED else element)
    average_at = _pointer(row, _AVERAGE, tl.pointer_type(tl.float32), True) + position
    square_at = _pointer(row, _SQUARE, tl.pointer_type(tl.float32), True) + position
    slope = tl.load(gradient_at, mask=valid, other=0.0).to(tl.float32) * tl.load(shrink)
    held = tl.load(parameter_at, mask=valid, other=0.0)
    if MASTER:
        master_at = _pointer(row, _MASTER, tl.pointer_type(tl.float32), True) + position
        value = _master(tl.load(master_at, mask=valid, other=0.0), held)
    else:
        value = held.to(tl.float32)
    first = tl.load(average_at, mask=valid, other=0.0)
    second = tl.load(square_at, mask=valid, other=0.0)
    value, first, second = _updated(value, slope, first, second, hyper)
    tl.store(average_at, first, mask=valid)
    tl.store(square_at, second, mask=valid)
    if MASTER:
        tl.store(master_at, value, mask=valid)
    if STOCHASTIC:
        value = _stochastic(value, position, tl.load(row + _SEED))
    tl.store(parameter_at, value.to(parameter_like.dtype.element_ty), mask=valid)


@triton.jit
def masked_adamw_list_kernel(
    table,  # [P, 11] int64
    parameter_of_block,  # [blocks] int32, blocks of the selected elements
    hyper,  # [P, 9] float32
    shrink,  # [] float32
    parameter_like,
    gradient_like,
    positions_like,
    MASTER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    PACKED: tl.constexpr,
    LENGTH: tl.constexpr,
):
    program, which, row = _own_row(table, parameter_of_block)
    hyper += which * _HYPER
    base, offset, left = _listed(row, program, LENGTH)
    # A mask that is true everywhere leaves accesses whole; only the last block of a parameter needs another.
    if left == LENGTH:
        _list_step(
            row, hyper, shrink, parameter_like, gradient_like, positions_like, base, offset, offset >= 0,
            MASTER, STOCHASTIC, PACKED,
        )  # fmt: skip
    else:
        _list_step(
            row, hyper, shrink, parameter_like, gradient_like, positions_like, base, offset, offset < left,
            MASTER, STOCHASTIC, PACKED,
        )  # fmt: skip


@triton.jit
def listed_square_sum_kernel(
    table,  # [P, 11] int64
    parameter_of_block,  # [blocks] int32, blocks of the selected elements
    partial,  # [blocks] float32
    gradient_like,
    positions_like,
    LENGTH: tl.constexpr,
):
    program, _, row = _own_row(table, parameter_of_block)
    base, offset, left = _listed(row, program, LENGTH)
    valid = offset < left
    element = tl.load(_pointer(row, _POSITIONS, positions_like.dtype, True) + base + offset, mask=valid, other=0)
    gradient_at = tl.load(row + _GRADIENT).to(gradient_like.dtype) + element
    slope = tl.load(gradient_at, mask=valid, other=0.0).to(tl.float32)
    tl.store(partial + program, tl.sum(slope * slope, axis=0))


@triton.jit
def accumulate_listed_kernel(packed, gradient, positions, size, LENGTH: tl.constexpr):
    """packed [size] += gradient at positions [size]."""
    at = tl.program_id(0).to(tl.int64) * LENGTH + tl.arange(0, LENGTH)
    valid = at < size
    element = tl.load(positions + at, mask=valid, other=0)
    slope = tl.load(gradient + element, mask=valid, other=0.0).to(tl.float32)
    tl.store(packed + at, tl.load(packed + at, mask=valid, other=0.0) + slope, mask=valid)


@triton.jit
def selected_square_sum_kernel(
    table,  # [P, 11] int64
    parameter_of_block,  # [blocks] int32
    partial,  # [blocks] float32
    gradient_like,
    ALIGNED: tl.constexpr,
    WORDS: tl.constexpr,
):
    program, _, row = _own_row(table, parameter_of_block)
    block = program - tl.load(row + _FIRST)
    words = tl.load(tl.load(row + _WORDS_AT).to(tl.pointer_type(tl.int32)) + block * WORDS + tl.arange(0, WORDS))
    bits = ((words[:, None] >> tl.arange(0, 32)[None, :]) & 1) != 0
    start = block * (WORDS * 32)
    offset, inside = _block_offsets(tl.load(row + _SIZE) - start, ALIGNED, WORDS)
    gradient_at = _pointer(row, _GRADIENT, gradient_like.dtype, ALIGNED) + start + offset
    slope = tl.load(gradient_at, mask=inside, other=0.0).to(tl.float32)
    slope = tl.where(bits, slope, 0.0)
    tl.store(partial + program, tl.sum(tl.sum(slope * slope, axis=1), axis=0))


@triton.jit
def accumulate_selected_kernel(
    table,  # [1, 11] int64
    packed,  # [K] float32
    gradient_like,
    ALIGNED: tl.constexpr,
    WORDS: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    bits, position, selected, before = _selection(table, block, WORDS)
    packed += before
    if selected == 0:
        return
    start = block * (WORDS * 32)
    offset, inside = _block_offsets(tl.load(table + _SIZE) - start, ALIGNED, WORDS)
    gradient_at = _pointer(table, _GRADIENT, gradient_like.dtype, ALIGNED) + start + offset
    slope = tl.load(gradient_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(packed + position, tl.load(packed + position, mask=bits, other=0.0) + slope, mask=bits)


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    masters: list[Tensor],
    scales: list[Tensor],
    words: list[Tensor],
    positions: list[Tensor],
    hyper: Tensor,
    shrink: Tensor,
    seeds: list[int],
    packed: bool,
    layout: str,
) -> None:
    """One launch over all parameters; see `operator` for the layouts and `reference.step_parameter` for the rest."""
    device = parameters[0].device
    gradients = [_reachable(gradient) for gradient in gradients]
    sizes = _sizes(parameters, positions, layout)
    table = _table(
        sizes, device, parameters=parameters, gradients=gradients, averages=averages, squares=squares,
        masters=masters, scales=scales, words=words, positions=positions, seeds=seeds,
    )  # fmt: skip
    blocks = _parameter_of_block(tuple(sizes), device)
    hyper = hyper.to(device, non_blocking=True)
    if blocks.numel() == 0:
        return
    stochastic = bool(seeds) and not masters and parameters[0].dtype == torch.bfloat16
    if layout == "bitmap":
        masked_adamw_bitmap_kernel[(blocks.numel(),)](
            table, blocks, hyper, shrink, parameters[0], gradients[0],
            MASTER=bool(masters), STOCHASTIC=stochastic, PACKED=packed,
            ALIGNED=_aligned(parameters, sizes) and (packed or _aligned(gradients, sizes)), WORDS=_WORDS,
            num_warps=_WARPS, **LAUNCH_OPTIONS,
        )  # fmt: skip
    else:
        masked_adamw_list_kernel[(blocks.numel(),)](
            table, blocks, hyper, shrink, parameters[0], gradients[0], positions[0],
            MASTER=bool(masters), STOCHASTIC=stochastic, PACKED=packed, LENGTH=BLOCK,
            num_warps=_LIST_WARPS, **LAUNCH_OPTIONS,
        )  # fmt: skip


def square_sum(
    gradients: list[Tensor], words: list[Tensor], positions: list[Tensor], packed: bool, layout: str
) -> Tensor:
    """As `reference.square_sum`, in few launches whatever the number of parameters."""
    if packed:
        return torch.stack(torch._foreach_norm([gradient.float() for gradient in gradients])).square().sum()
    device = gradients[0].device
    gradients = [_reachable(gradient) for gradient in gradients]
    sizes = _sizes(gradients, positions, layout)
    blocks = _parameter_of_block(tuple(sizes), device)
    partial = torch.empty(blocks.numel(), dtype=torch.float32, device=device)
    table = _table(sizes, device, gradients=gradients, words=words, positions=positions)
    if blocks.numel() and layout == "bitmap":
        selected_square_sum_kernel[(blocks.numel(),)](
            table, blocks, partial, gradients[0],
            ALIGNED=_aligned(gradients, sizes), WORDS=_WORDS, num_warps=_WARPS, **LAUNCH_OPTIONS,
        )  # fmt: skip
    elif blocks.numel():
        listed_square_sum_kernel[(blocks.numel(),)](
            table, blocks, partial, gradients[0], positions[0], LENGTH=BLOCK, num_warps=_WARPS, **LAUNCH_OPTIONS
        )
    return partial.sum()


def accumulate(packed: Tensor, gradient: Tensor, words: Tensor, positions: Tensor, layout: str) -> None:
    """As `reference.accumulate`."""
    gradient = _reachable(gradient)
    if layout != "bitmap":
        size = positions.numel()
        if size:
            accumulate_listed_kernel[(triton.cdiv(size, BLOCK),)](
                packed, gradient, positions, size, LENGTH=BLOCK, num_warps=_WARPS, **LAUNCH_OPTIONS
            )
        return
    blocks = words.numel() // _WORDS
    if blocks == 0:
        return
    sizes = [gradient.numel()]
    accumulate_selected_kernel[(blocks,)](
        _table(sizes, gradient.device, gradients=[gradient], words=[words], positions=[positions]), packed, gradient,
        ALIGNED=_aligned([gradient], sizes), WORDS=_WORDS, num_warps=_WARPS, **LAUNCH_OPTIONS,
    )  # fmt: skip


def _sizes(tensors: list[Tensor], positions: list[Tensor], layout: str) -> list[int]:
    """Of what is divided into blocks: a parameter under a bitmap, else its selected elements."""
    return [one.numel() for one in (tensors if layout == "bitmap" else positions)]


def _reachable(gradient: Tensor) -> Tensor:
    gradient = gradient.contiguous()
    return gradient if gradient.data_ptr() % _ALIGNMENT == 0 else gradient.clone()


def _aligned(tensors: list[Tensor], sizes: list[int]) -> bool:
    return all(t.data_ptr() % _ALIGNMENT == 0 for t in tensors) and all(size % 8 == 0 for size in sizes)


def _table(
    sizes: list[int],
    device: torch.device,
    *,
    parameters: list[Tensor] | None = None,
    gradients: list[Tensor] | None = None,
    averages: list[Tensor] | None = None,
    squares: list[Tensor] | None = None,
    masters: list[Tensor] | None = None,
    scales: list[Tensor] | None = None,
    words: list[Tensor] | None = None,
    positions: list[Tensor] | None = None,
    seeds: list[int] | None = None,
) -> Tensor:
    empty = [0] * len(sizes)
    lists = (parameters, gradients, averages, squares, masters, scales, words, positions)
    columns = [[tensor.data_ptr() for tensor in tensors] if tensors else empty for tensors in lists]
    first, total = [], 0
    for size in sizes:
        first.append(total)
        total += -(-size // BLOCK)
    rows = zip(*columns, sizes, first, seeds or empty, strict=True)
    return torch.tensor(list(rows), dtype=torch.int64).to(device, non_blocking=True)


@lru_cache(maxsize=64)
def _parameter_of_block(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    counts = torch.tensor([-(-size // BLOCK) for size in sizes])
    return torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(counts).to(device)


def variants() -> list[Variant]:
    """The specialisations to compile ahead of time: each kernel in the combinations of dtypes and options in use."""
    tables = {"table": "*i64", "parameter_of_block": "*i32", "hyper": "*fp32", "shrink": "*fp32"}
    found = []
    for name, dtype, master, stochastic, packed, aligned in (
        ("bitmap-bf16-master", "bf16", True, False, False, True),
        ("bitmap-bf16-stochastic", "bf16", False, True, False, True),
        ("bitmap-bf16-master-packed", "bf16", True, False, True, True),
        ("bitmap-fp16-master", "fp16", True, False, False, True),
        ("bitmap-fp32", "fp32", False, False, False, True),
        ("bitmap-fp32-unaligned", "fp32", False, False, False, False),
    ):
        flags = {"MASTER": master, "STOCHASTIC": stochastic, "PACKED": packed}
        constants = {**flags, "ALIGNED": aligned, "WORDS": _WORDS}
        types = {**tables, "parameter_like": f"*{dtype}", "gradient_like": "*fp32" if packed else f"*{dtype}"}
        wide = (1 if packed else 2) * aligned
        found.append(_variant(name, masked_adamw_bitmap_kernel, types, constants, loads=wide, stores=int(aligned)))
    for name, dtype, master, stochastic, packed in (
        ("bf16-master", "bf16", True, False, False),
        ("bf16-stochastic", "bf16", False, True, False),
        ("bf16-master-packed", "bf16", True, False, True),
        ("fp16-master", "fp16", True, False, False),
        ("fp32", "fp32", False, False, False),
        ("fp32-packed", "fp32", False, False, True),
    ):
        constants = {"MASTER": master, "STOCHASTIC": stochastic, "PACKED": packed, "LENGTH": BLOCK}
        types = {**tables, "parameter_like": f"*{dtype}", "gradient_like": "*fp32" if packed else f"*{dtype}"}
        types |= {"positions_like": "*i32"}
        # Positions, both moments, the master and a packed gradient.
        wide = 3 + master + packed
        found.append(
            _variant(
                f"list-{name}", masked_adamw_list_kernel, types, constants, wide, 2 + master, num_warps=_LIST_WARPS
            )
        )
    for dtype in ("bf16", "fp32"):
        types = {"packed": "*fp32", "gradient": f"*{dtype}", "positions": "*i32", "size": "i32"}
        found.append(_variant(f"accumulate-list-{dtype}", accumulate_listed_kernel, types, {"LENGTH": BLOCK}))
        types = {"table": "*i64", "parameter_of_block": "*i32", "partial": "*fp32", "gradient_like": f"*{dtype}"}
        types |= {"positions_like": "*i32"}
        found.append(_variant(f"square-sum-list-{dtype}", listed_square_sum_kernel, types, {"LENGTH": BLOCK}))
    for dtype in ("bf16", "fp32"):
        constants = {"ALIGNED": True, "WORDS": _WORDS}
        types = {"table": "*i64", "parameter_of_block": "*i32", "partial": "*fp32", "gradient_like": f"*{dtype}"}
        found.append(_variant(f"square-sum-{dtype}", selected_square_sum_kernel, types, constants, loads=1))
        types = {"table": "*i64", "packed": "*fp32", "gradient_like": f"*{dtype}"}
        found.append(_variant(f"accumulate-{dtype}", accumulate_selected_kernel, types, constants, loads=1))
    return found


def _variant(
    name: str,
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    loads: int = 0,
    stores: int = 0,
    num_warps: int = _WARPS,
) -> Variant:
    return Variant(
        operation="masked_adamw",
        name=name,
        kernel=kernel,
        signature={**types, **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        aligned=tuple(types),
        num_warps=num_warps,
        elements=BLOCK,
        loads=loads,
        stores=stores,
    )
