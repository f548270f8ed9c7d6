"""A patch file, opened and checked; its values are read one tensor at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import ValidationError

from vkdsurgeon.checkpoint.header import TensorEntry, read_header, read_metadata
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES
from vkdsurgeon.checkpoint.shard_index import INDEX
from vkdsurgeon.checkpoint.whole_model import PICKLES
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.files.problems import first_problem
from vkdsurgeon.patch.content import (
    FILE,
    MASK,
    METADATA_KEY,
    VALUES,
    Change,
    content_digest,
    decompressed,
    itemsize,
    mask_bytes,
)
from vkdsurgeon.results.patch import PatchFacts

# Beside weights lie tokenizers and images; a whole file is held in memory once.
MOST_FILE_BYTES = 256 << 20
_DAMAGED = "get the patch again; its digest is in the release"


@dataclass(frozen=True)
class PatchFile:
    """A patch whose header is sound.

    Attributes:
        path: The file.
        facts: What it says of itself.
        entries: Where its parts lie.
    """

    path: Path
    facts: PatchFacts
    entries: dict[str, TensorEntry]

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.path.stat().st_size

    def change(self, name: str) -> Change:
        """The new values of one tensor.

        Args:
            name: The tensor's name on disk; one of `facts.tensors`.

        Raises:
            UserError: The patch is damaged.
        """
        facts = self.facts.tensors[name]
        elements = prod(facts.shape)
        mask = self._part(MASK + name, mask_bytes(elements))
        values = self._part(VALUES + name, facts.changed * itemsize(facts.dtype))
        if content_digest(mask, values) != facts.content:
            raise self._damaged(name, "mask and values are not those that were exported")
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=elements, bitorder="little").view(np.bool_)
        if int(bits.sum()) != facts.changed:
            raise self._damaged(name, "the mask does not select as many elements as there are values")
        return Change(bits, np.frombuffer(values, np.uint8).reshape(facts.changed, -1))

    def file(self, path: str) -> bytes:
        """The whole content of one file without weights.

        Args:
            path: One of `facts.files`.

        Raises:
            UserError: The patch is damaged.
        """
        entry = self.entries[FILE + path]
        raw = self._raw(entry)
        if self.facts.compression == "zstd":
            length = int.from_bytes(raw[:8], "little")
            if length > MOST_FILE_BYTES:
                raise self._damaged(path, "a file that is too large")
            raw = self._inflated(path, raw[8:], length)
        if hashlib.sha256(raw).hexdigest() != self.facts.files[path]:
            raise self._damaged(path, "the file is not the one that was exported")
        return raw

    def digest(self) -> str:
        """SHA-256 of the whole file, in hex."""
        return digest(self.path)

    def check(self) -> None:
        """Read all of it once.

        Raises:
            UserError: A part of it is damaged.
        """
        for name in self.facts.tensors:
            self.change(name)
        for path in self.facts.files:
            self.file(path)

    def _part(self, key: str, size: int) -> bytes:
        entry = self.entries[key]
        raw = self._raw(entry)
        if self.facts.compression == "zstd":
            return self._inflated(key, raw, size)
        if len(raw) != size:
            raise self._damaged(key, f"{len(raw)} bytes where {size} belong")
        return raw

    def _inflated(self, key: str, raw: bytes, size: int) -> bytes:
        try:
            return decompressed(raw, size)
        except OSError as error:
            raise self._damaged(key, str(error)) from error

    def _raw(self, entry: TensorEntry) -> bytes:
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(entry.begin)
            pieces, left = [], entry.nbytes
            while left and (piece := stream.read(left)):
                pieces.append(piece)
                left -= len(piece)
        return b"".join(pieces)

    def _damaged(self, part: str, what: str) -> UserError:
        return UserError(f"the patch is damaged: {what}", where=f"{self.path}: {part}", remedy=_DAMAGED)


def open_patch(path: Path) -> PatchFile:
    """Open a patch file and check everything that can be checked without reading its values.

    Args:
        path: The file.

    Raises:
        UserError: The file is not a patch, or its header is damaged.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"the patch {problem}", where=path, expected="a file of `vkdsurgeon patch export`")
    entries = {entry.name: entry for entry in read_header(path, path.name)}
    told = read_metadata(path).get(METADATA_KEY)
    if told is None:
        raise UserError("not a patch file", where=path, expected="a file of `vkdsurgeon patch export`")
    try:
        found = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the patch's metadata is not JSON: {error}", where=path, remedy=_DAMAGED) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != PatchFacts.SCHEMA:
        raise UserError("a patch of another kind", where=path, value=schema, expected=PatchFacts.SCHEMA)
    try:
        facts = PatchFacts.model_validate(found)
    except ValidationError as error:
        raise UserError(
            f"the patch's metadata is broken: {first_problem(error)}", where=path, remedy=_DAMAGED
        ) from None
    _check_parts(path, facts, entries)
    _check_paths(path, facts)
    return PatchFile(path, facts, entries)


def open_stack(paths: Sequence[Path]) -> list[PatchFile]:
    """Patches that follow on each other.

    Args:
        paths: In the order in which they are applied.

    Raises:
        UserError: None is given, one is no patch, or one does not begin where the one before it ends.
    """
    if not paths:
        raise UserError("no patch named", where="PATCH", expected="one or more patch files")
    patches = [open_patch(path) for path in paths]
    for first, second in itertools.pairwise(patches):
        if first.facts.result.weights_digest != second.facts.base.weights_digest:
            raise UserError(
                f"this patch does not follow on {first.path}",
                where=second.path,
                value=second.facts.base.weights_digest,
                expected=f"a patch for the weights {first.facts.result.weights_digest}",
                remedy="give the patches in the order in which they were made, none left out",
            )
    return patches


def _check_parts(path: Path, facts: PatchFacts, entries: dict[str, TensorEntry]) -> None:
    wanted = {prefix + name for name in facts.tensors for prefix in (MASK, VALUES)}
    wanted |= {FILE + name for name in facts.files}
    if wanted != entries.keys():
        odd = sorted(wanted ^ entries.keys())
        raise UserError("the patch's metadata and its parts do not agree", where=path, value=odd[0], remedy=_DAMAGED)
    for name, tensor in facts.tensors.items():
        if tensor.dtype not in TORCH_DTYPES or tensor.changed > prod(tensor.shape):
            raise UserError("the patch describes an impossible tensor", where=f"{path}: {name}", remedy=_DAMAGED)
        if facts.compression == "none":
            sizes = {MASK: mask_bytes(prod(tensor.shape)), VALUES: tensor.changed * itemsize(tensor.dtype)}
            for prefix, size in sizes.items():
                if entries[prefix + name].nbytes != size:
                    raise UserError("a part of the patch has a wrong length", where=f"{path}: {name}", remedy=_DAMAGED)


def _check_paths(path: Path, facts: PatchFacts) -> None:
    """A patch writes into the directory of a model: nothing of it may lie outside, or pass for weights."""
    for name in (*facts.files, *facts.removed, *_files_of(facts)):
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or {"..", "."} & set(parts) or "\0" in name or "\\" in name:
            raise UserError("the patch names a place outside the model", where=path, value=name, remedy=_DAMAGED)
    for name in (*facts.files, *facts.removed):
        if name in facts.base.files and name in {tensor.file for tensor in facts.tensors.values()}:
            raise UserError("the patch replaces a weight file as a whole", where=path, value=name, remedy=_DAMAGED)
    for name in facts.files:
        if name.endswith((".safetensors", *PICKLES)) or name == INDEX:
            raise UserError("the patch brings a weight file of its own", where=path, value=name, remedy=_DAMAGED)


def _files_of(facts: PatchFacts) -> Iterable[str]:
    return (*facts.base.files, *facts.result.files, *(tensor.file for tensor in facts.tensors.values()))
