"""The header of one safetensors file, checked against the file's length.

Layout: eight bytes with the header's length (little-endian), a JSON object of that length, then the tensors' bytes.
Offsets in the header count from the end of the header; here they are turned into absolute file offsets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8

# Bits, because the 4- and 6-bit floats of quantised checkpoints pack several values into a byte.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

_DAMAGED = "download or export the file again"
_METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: The tensor's name on disk.
        dtype: As safetensors spells it, such as `BF16`.
        shape: Its shape.
        file: Path of the shard, relative to the checkpoint.
        begin: First byte in the shard, counted from the start of the file.
        end: One past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes on disk."""
        return self.end - self.begin


def read_header(path: Path, file: str) -> list[TensorEntry]:
    """Read and check the header of one safetensors file; no tensor is read.

    Args:
        path: The file.
        file: Its path relative to the checkpoint, kept in the entries.

    Returns:
        The tensors in the order of their offsets.

    Raises:
        UserError: The file is truncated, malformed, or its offsets do not tile its data exactly.
    """
    size = path.stat().st_size
    table, data_begin = _read_table(path, size)
    table.pop(_METADATA, None)
    entries = [_entry(name, facts, path, file, data_begin, size) for name, facts in table.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_tiling(entries, path, data_begin, size)
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` of one safetensors file; empty where there is none.

    Args:
        path: The file.

    Raises:
        UserError: The file is truncated or malformed, or the metadata is no mapping of texts.
    """
    table, _ = _read_table(path, path.stat().st_size)
    found = table.get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError("the metadata of the header is malformed", where=path, value=found, remedy=_DAMAGED)
    return found


def _read_table(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb", buffering=0) as stream:
        prefix = stream.read(LENGTH_BYTES)
        if len(prefix) < LENGTH_BYTES:
            raise UserError("the file is too short for a safetensors header", where=path, value=size, remedy=_DAMAGED)
        length = int.from_bytes(prefix, "little")
        if length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
            raise UserError(
                "the header is longer than the file or than safetensors allows",
                where=path,
                value=length,
                expected=f"at most {min(size - LENGTH_BYTES, MAX_HEADER_BYTES)} bytes",
                remedy=_DAMAGED,
            )
        raw = stream.read(length)
    try:
        table = json.loads(raw, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the header is not valid JSON: {error}", where=path, remedy=_DAMAGED) from error
    if not isinstance(table, dict):
        raise UserError("the header is not a JSON object", where=path, value=type(table).__name__, remedy=_DAMAGED)
    return table, LENGTH_BYTES + length


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name!r} appears twice")
            seen.add(name)
    return table


def _entry(name: str, facts: Any, path: Path, file: str, data_begin: int, size: int) -> TensorEntry:
    where = f"{path}: tensor {name}"
    if not isinstance(facts, dict):
        raise UserError("malformed header entry", where=where, value=facts, remedy=_DAMAGED)
    dtype: Any = facts.get("dtype")
    shape: Any = facts.get("shape")
    offsets: Any = facts.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UserError("unknown dtype", where=where, value=dtype, expected="one of " + ", ".join(BITS))
    if not _naturals(shape):
        raise UserError("malformed shape", where=where, value=shape, expected="a list of sizes", remedy=_DAMAGED)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError("malformed offsets", where=where, value=offsets, expected="[begin, end]", remedy=_DAMAGED)
    entry = TensorEntry(name, dtype, tuple(shape), file, data_begin + offsets[0], data_begin + offsets[1])
    if entry.end > size:
        raise UserError(
            "the tensor's bytes lie outside the file: the file is truncated or its header is wrong",
            where=where,
            value=entry.end,
            expected=f"at most {size} bytes, the length of the file",
            remedy=_DAMAGED,
        )
    if entry.nbytes * 8 != entry.elements * BITS[dtype]:
        raise UserError(
            f"shape {list(shape)} of {dtype} does not fit the tensor's length",
            where=where,
            value=entry.nbytes,
            expected=f"{entry.elements * BITS[dtype] // 8} bytes",
            remedy=_DAMAGED,
        )
    return entry


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_tiling(entries: list[TensorEntry], path: Path, data_begin: int, size: int) -> None:
    expected = data_begin
    for entry in entries:
        if entry.begin != expected:
            raise UserError(
                "tensors overlap" if entry.begin < expected else "bytes that belong to no tensor",
                where=f"{path}: tensor {entry.name}",
                value=entry.begin,
                expected=f"offset {expected}, where the tensor before it ends",
                remedy=_DAMAGED,
            )
        expected = entry.end
    if expected != size:
        raise UserError(
            "the file goes on after its last tensor",
            where=path,
            value=size,
            expected=f"a length of {expected} bytes",
            remedy=_DAMAGED,
        )
