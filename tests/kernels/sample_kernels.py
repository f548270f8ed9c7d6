"""Kernels that show the gate of ahead-of-time compilation what it must pass and what it must stop."""

from __future__ import annotations

import dataclasses

import triton
import triton.language as tl
from vkdsurgeon_kernels.launch import Variant


@triton.jit
def scale_kernel(sources, results, factor, n, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    layer = tl.program_id(1)
    source = sources[0]
    result = results[0]
    for other in tl.static_range(1, LAYERS):
        if layer == other:
            source = sources[other]
            result = results[other]
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    values = tl.load(source + offsets, mask=inside, other=0).to(tl.float32)
    tl.store(result + offsets, (values * factor).to(tl.bfloat16), mask=inside)


@triton.jit
def sum_kernel(source, result, n, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total += tl.load(source + offsets, mask=offsets < n, other=0)
    tl.store(result, tl.sum(total))


def variants() -> list[Variant]:
    """The sound ones under `sound`, and one for each way of failing under the way's name."""
    scale = Variant(
        "sound", "scale", scale_kernel,
        {"sources": ("*bf16", "*bf16"), "results": ("*bf16", "*bf16"), "factor": "fp32", "n": "i32",
         "LAYERS": "constexpr", "BLOCK": "constexpr"},
        {"LAYERS": 2, "BLOCK": 2048}, ("sources", "results", "n"), 4, 2048, loads=1, stores=1,
    )  # fmt: skip
    total = Variant(
        "sound", "sum", sum_kernel, {"source": "*fp32", "result": "*fp32", "n": "i32", "BLOCK": "constexpr"},
        {"BLOCK": 2048}, ("source", "n"), 4, 2048, loads=1,
    )  # fmt: skip
    # Twenty-four registers cannot hold what sixty-four elements per thread need.
    spills = dataclasses.replace(total, operation="spills", constants={"BLOCK": 8192}, options={"maxnreg": 24})
    narrow = dataclasses.replace(scale, operation="narrow", aligned=("results", "n"))
    wrong = dataclasses.replace(total, operation="wrong", constants={"BLOCK": 1000})
    return [scale, total, spills, narrow, wrong]
