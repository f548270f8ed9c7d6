"""What a kernel's assembly says about it: how wide its memory accesses are, how many registers it takes and spills."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_PTX_ACCESS = re.compile(
    r"(?<![\w.])(?P<kind>ld|st|atom|red)\.(?:[\w:]+\.)*?global(?:\.[\w:]+)*?(?:\.v(?P<count>[248]))?"
    r"\.(?:bf16x2|f16x2|[busf](?P<bits>8|16|32|64|128))(?=\s)"
)
_PTX_COPY = re.compile(
    r"(?<![\w.])cp\.async\.c[ag]\.shared\.global\S*\s*\[[^]]*\],\s*\[[^]]*\],\s*(?P<bytes>0x\w+|\d+)"
)
_PTX_TARGET = re.compile(r"^\.target\s+(\w+)", re.MULTILINE)
_PTX_LABEL = re.compile(r"^(\$\w+):")
_PTX_BRANCH = re.compile(r"(?<![\w.])bra(?:\.uni)?\s+(\$\w+)")
_AMD_ACCESS = re.compile(r"^\s*(?:global|buffer)_(?P<kind>load|store|atomic)_(?P<width>\w+)")
_AMD_LABEL = re.compile(r"^(\.\w+):")
_AMD_BRANCH = re.compile(r"^\s*s_c?branch\w*\s+(\.\w+)")
_AMD_BITS = {
    "dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128, "b32": 32, "b64": 64, "b96": 96, "b128": 128,
    "ubyte": 8, "sbyte": 8, "byte": 8, "ushort": 16, "sshort": 16, "short": 16, "u8": 8, "u16": 16, "b8": 8, "b16": 16,
    "i8": 8, "i16": 16, "ubyte_d16": 8, "ubyte_d16_hi": 8, "short_d16": 16, "short_d16_hi": 16, "byte_d16_hi": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Accesses:
    """The global memory accesses in a kernel's code.

    Attributes:
        loads: Width in bits -> number of load instructions.
        stores: Width in bits -> number of store instructions.
        atomics: Number of atomic instructions.
        straight_line: No instruction runs twice, so that the counts are what one thread moves, or more than that
            where a condition jumps over some.
    """

    loads: Counter[int]
    stores: Counter[int]
    atomics: int
    straight_line: bool

    @property
    def bytes_per_thread(self) -> float | None:
        """Bytes that one thread loads and stores; None if a loop decides it."""
        bits = sum(width * count for table in (self.loads, self.stores) for width, count in table.items())
        return bits / 8 if self.straight_line else None


def wide(table: Counter[int], bits: int) -> int:
    """How many accesses of the given width a table holds, wider ones counted as several."""
    return sum(width // bits * count for width, count in table.items())


def read_ptx(text: str) -> Accesses:
    """Count the memory accesses in PTX."""
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    atomics = 0
    for match in _PTX_ACCESS.finditer(text):
        bits = int(match["bits"] or 32) * int(match["count"] or 1)
        if match["kind"] == "ld":
            loads[bits] += 1
        elif match["kind"] == "st":
            stores[bits] += 1
        else:
            atomics += 1
    loads.update(int(match["bytes"], 0) * 8 for match in _PTX_COPY.finditer(text))
    return Accesses(loads, stores, atomics, not _jumps_back(text, _PTX_LABEL, _PTX_BRANCH))


def read_amdgcn(text: str) -> Accesses:
    """Accesses in the assembly of AMD GPUs; scalar loads, which fetch the arguments, do not count.

    Raises:
        ValueError: An access of a width this parser does not know.
    """
    tables: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    atomics = 0
    for line in text.splitlines():
        match = _AMD_ACCESS.match(line)
        if match is None:
            continue
        if match["kind"] == "atomic":
            atomics += 1
        elif match["width"] in _AMD_BITS:
            tables[match["kind"]][_AMD_BITS[match["width"]]] += 1
        else:
            raise ValueError(f"unknown width {match['width']!r} in {line.strip()!r}; expected one of {list(_AMD_BITS)}")
    return Accesses(tables["load"], tables["store"], atomics, not _jumps_back(text, _AMD_LABEL, _AMD_BRANCH))


def ptx_target(text: str) -> str:
    """The architecture that ptx names, e.g. `sm_90a`."""
    match = _PTX_TARGET.search(text)
    if match is None:
        raise ValueError("the ptx has no .target line")
    return match[1]


def read_ptxas(log: str) -> dict[str, int]:
    """Registers, bytes spilled and bytes of stack of one thread, from what `ptxas -v` tells.

    Raises:
        ValueError: The log has no such lines.
    """
    registers = re.search(r"Used (\d+) registers", log)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if registers is None or frame is None:
        raise ValueError(f"ptxas told no registers and spills: {log.strip()[-400:]!r}")
    stack, stored, loaded = (int(number) for number in frame.groups())
    return {"registers": int(registers[1]), "spill_bytes": stored + loaded, "stack_bytes": stack}


def read_amdgcn_metadata(text: str) -> dict[str, int]:
    """Vector registers, bytes spilled (four per register) and bytes of stack of one lane, from the kernel's metadata.

    Raises:
        ValueError: A field is missing.
    """

    def value(name: str) -> int:
        match = re.search(rf"^\s*\.{name}:\s*(\d+)", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"the assembly's metadata has no .{name}")
        return int(match[1])

    spilled = value("vgpr_spill_count") + value("sgpr_spill_count")
    return {
        "registers": value("vgpr_count"),
        "spill_bytes": 4 * spilled,
        "stack_bytes": value("private_segment_fixed_size"),
    }


def _jumps_back(text: str, label: re.Pattern[str], branch: re.Pattern[str]) -> bool:
    seen = set()
    for line in text.splitlines():
        if match := label.match(line):
            seen.add(match[1])
        elif (match := branch.search(line)) and match[1] in seen:
            return True
    return False
