"""Compile the Triton kernels for GPUs that are not here, and report what the compilers made of them.

    python -m vkdsurgeon_kernels.ahead_of_time [--target cuda:80 ...] [--operation NAME ...] [--json]

One row per kernel variant and target: registers, spills, shared memory, how wide the accesses of global memory are, and
the bytes that a program moves per element. Exit status 1 if a row has a problem: spills, fewer wide accesses than
the variant promises, or more shared memory than every GPU of the target's kind grants without asking.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import vkdsurgeon_kernels
from vkdsurgeon_kernels import assembly
from vkdsurgeon_kernels.backend import interpreting
from vkdsurgeon_kernels.launch import FP_FUSION, Variant

SCHEMA = "vkdsurgeon/aot/1"
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")
SHARED_BOUNDS = {"cuda": 48 << 10, "hip": 64 << 10}
"""Bytes of shared memory that a block gets on every GPU of a kind without opting in to more."""

_MOST_TOLD = 600
_WARP = {"cuda": 32, "hip": 64}


def kernel_modules() -> list[str]:
    """Names of this package's modules that hold Triton kernels."""
    packages = [
        f"{vkdsurgeon_kernels.__name__}.{module.name}"
        for module in pkgutil.iter_modules(vkdsurgeon_kernels.__path__)
        if module.ispkg
    ]
    return [f"{package}.triton" for package in packages if importlib.util.find_spec(f"{package}.triton") is not None]


def collect(modules: Iterable[str], operations: Sequence[str] = ()) -> list[Variant]:
    """The variants that modules list in their `variants()`.

    Args:
        modules: Names of modules to import.
        operations: Keep variants of these operations; none means all.

    Returns:
        The variants.

    Raises:
        ValueError: Kernels are being interpreted, two variants share a name, or nothing is left.
    """
    if interpreting():
        raise ValueError("TRITON_INTERPRET is set, so kernels are Python functions and cannot be compiled; unset it")
    found = [variant for module in modules for variant in importlib.import_module(module).variants()]
    twice = [name for name, count in Counter((one.operation, one.name) for one in found).items() if count > 1]
    if twice:
        raise ValueError(f"two variants share the name {twice[0]}; give each its own")
    kept = [variant for variant in found if not operations or variant.operation in operations]
    if not kept:
        known = ", ".join(sorted({variant.operation for variant in found}))
        raise ValueError(f"no variant of {', '.join(operations)}; there are kernels of: {known or 'nothing'}")
    return kept


def representatives(variants: Iterable[Variant]) -> list[Variant]:
    """The first variant of each kernel: enough to see that a target takes it."""
    first: dict[Any, Variant] = {}
    for variant in variants:
        first.setdefault(variant.kernel, variant)
    return list(first.values())


def report(variant: Variant, target: str) -> dict[str, Any]:
    """Compile one variant for one target and describe the result.

    Args:
        variant: The kernel and how it is specialised.
        target: `cuda:CAPABILITY`, e.g. `cuda:90`, or `hip:ARCHITECTURE`, e.g. `hip:gfx942`.

    Returns:
        One row; of a variant that does not compile only its identity and its problem. `bytes_per_element` is None
        where a loop decides it, and otherwise an upper bound: what all threads of a program read counts once per
        thread, and what a mask switches off counts in full. `spill_bytes` and `stack_bytes` are per thread. A variant
        promises 128-bit accesses for warps of 32; in warps of 64 a thread's share, and with it the width, is half.

    Raises:
        ValueError: An unknown kind of target.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kind, _, architecture = target.partition(":")
    if kind not in _WARP or not architecture:
        raise ValueError(f"unknown target {target!r}; expected cuda:CAPABILITY or hip:ARCHITECTURE, as {TARGETS}")
    gpu = GPUTarget(kind, int(architecture) if kind == "cuda" else architecture, _WARP[kind])
    source = ASTSource(variant.kernel, variant.signature, variant.constants, _divisible(variant))
    options = {**variant.options, "num_warps": variant.num_warps, "enable_fp_fusion": FP_FUSION}
    identity = {"schema": SCHEMA, "operation": variant.operation, "variant": variant.name, "target": target}
    try:
        compiled = triton.compile(source, target=gpu, options=options)
        if kind == "cuda":
            code = compiled.asm["ptx"]
            accesses, resources = assembly.read_ptx(code), _ptxas(code, gpu.arch)
        else:
            code = compiled.asm["amdgcn"]
            accesses, resources = assembly.read_amdgcn(code), assembly.read_amdgcn_metadata(code)
    except Exception as error:
        # A kernel's mistake surfaces as whatever the failing stage raises; the other rows are still wanted.
        told = " / ".join(str(one).strip() for one in (error, error.__cause__) if one)
        return {**identity, "problems": [f"does not compile: {told[-_MOST_TOLD:]}"]}
    moved = accesses.bytes_per_thread
    threads = variant.num_warps * _WARP[kind]
    row = {
        **identity,
        "num_warps": variant.num_warps,
        **resources,
        "shared_bytes": compiled.metadata.shared,
        "loads": _by_width(accesses.loads),
        "stores": _by_width(accesses.stores),
        "atomics": accesses.atomics,
        "wide_bits": 128 * 32 // _WARP[kind],
        "least_wide_loads": variant.loads,
        "least_wide_stores": variant.stores,
        "bytes_per_element": None if moved is None else round(moved * threads / variant.elements, 3),
        "fp_fusion": FP_FUSION,
        "triton": importlib.metadata.version("triton"),
    }
    return {**row, "problems": problems(row)}


def problems(row: dict[str, Any]) -> list[str]:
    """The checks that a row fails, in words; empty where it passes all."""
    kind = row["target"].partition(":")[0]
    found = []
    if row["spill_bytes"]:
        found.append(f"spills {row['spill_bytes']} bytes per thread")
    for accesses in ("loads", "stores"):
        counts = Counter({int(bits): count for bits, count in row[accesses].items()})
        wide = assembly.wide(counts, row["wide_bits"])
        if wide < row[f"least_wide_{accesses}"]:
            found.append(f"{wide} {row['wide_bits']}-bit {accesses}, expected at least {row[f'least_wide_{accesses}']}")
    if row["shared_bytes"] > SHARED_BOUNDS[kind]:
        found.append(f"{row['shared_bytes']} bytes of shared memory, more than {SHARED_BOUNDS[kind]}")
    return found


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a markdown table."""
    lines = [
        "| operation | variant | target | registers | spill bytes | shared bytes | load bits | store bits "
        "| bytes/element | problems |",
        "|-|-|-|-|-|-|-|-|-|-|",
    ]
    for row in rows:
        if "registers" not in row:
            told = " ".join(row["problems"][0].split()).replace("|", "/")
            lines.append(f"| {row['operation']} | {row['variant']} | {row['target']} |{' |' * 6} {told} |")
            continue
        widths = [", ".join(f"{n}x{bits}" for bits, n in row[key].items()) or "none" for key in ("loads", "stores")]
        bytes_per_element = "loop" if row["bytes_per_element"] is None else f"{row['bytes_per_element']:.2f}"
        cells = [
            row["operation"], row["variant"], row["target"], row["registers"], row["spill_bytes"],
            row["shared_bytes"], *widths, bytes_per_element, "; ".join(row["problems"]) or "none",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def _divisible(variant: Variant) -> dict[tuple[int, ...], list[list[Any]]]:
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for name in variant.aligned:
        index, kind = variant.kernel.arg_names.index(name), variant.signature[name]
        places = [(index,)] if isinstance(kind, str) else [(index, member) for member in range(len(kind))]
        attributes |= {place: [["tt.divisibility", 16]] for place in places}
    return attributes


def _by_width(counts: Counter[int]) -> dict[str, int]:
    return {str(bits): counts[bits] for bits in sorted(counts, reverse=True)}


def _ptxas(code: str, capability: int) -> dict[str, int]:
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kernel.ptx"
        file.write_text(code)
        # Triton 3.5 has one ptxas for every capability.
        tool = get_ptxas(capability) if inspect.signature(get_ptxas).parameters else get_ptxas()
        command = [tool.path, "-v", f"--gpu-name={assembly.ptx_target(code)}", str(file)]
        if not FP_FUSION:
            command.append("--fmad=false")
        done = subprocess.run([*command, "-o", str(file.with_suffix(".cubin"))], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ptxas failed with status {done.returncode}: {done.stderr.strip()}")
    return assembly.read_ptxas(done.stderr + done.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print, and return the exit status: 0, 1 if a row has a problem, 2 if nothing could be compiled."""
    parser = argparse.ArgumentParser(prog="python -m vkdsurgeon_kernels.ahead_of_time", description=__doc__)
    parser.add_argument("--target", action="append", help=f"repeatable; default: {', '.join(TARGETS)}")
    parser.add_argument("--operation", action="append", default=[], help="repeatable; default: all")
    parser.add_argument("--module", action="append", help="repeatable; default: every kernel module of this package")
    parser.add_argument(
        "--all-on", metavar="TARGET", help="elsewhere than on this target compile only one variant of each kernel"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    chosen = parser.parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        print("triton is not installed: pip install triton", file=sys.stderr)
        return 2
    try:
        variants = collect(chosen.module or kernel_modules(), chosen.operation)
        rows = []
        for target in chosen.target or TARGETS:
            everything = chosen.all_on in (None, target)
            rows += [report(variant, target) for variant in (variants if everything else representatives(variants))]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(json.dumps(row) for row in rows) if chosen.json else table(rows))
    return 1 if any(row["problems"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
