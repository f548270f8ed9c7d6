"""What differs between two checkpoints: which tensors, how many elements; and that the rest is identical.

Both are streamed in chunks; neither is ever held in memory, and nothing needs to be known about the architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vkdsurgeon.checkpoint.header import BITS, TensorEntry
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.provenance import declared_language_changes
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import chunks, gaps, same_range

FileState = Literal["identical", "changed", "missing", "extra"]


@dataclass(frozen=True)
class TensorDiff:
    """One tensor whose bytes differ.

    Attributes:
        name: On disk.
        part: `tower`, `projector`, `language`, `other`, or `unknown` where the architecture cannot be split.
        file: The shard, in the base.
        elements: How many elements it has.
        changed: How many of them differ; all of them where dtype or shape differ.
    """

    name: str
    part: str
    file: str
    elements: int
    changed: int


@dataclass(frozen=True)
class CheckpointDiff:
    """The difference of two checkpoints.

    Attributes:
        base: The original's directory.
        patched: The other one.
        tensors: Tensors whose bytes differ.
        missing: Names of tensors that only the base has.
        added: Names of tensors that only the patched one has.
        compared: Number of tensors that both have.
        elements: Number of elements in them.
        files: Path -> state of every file of either.
        headers_identical: Every tensor of one lies at the same place in the same file of the other, and what lies
            outside the tensors in those files is equal.
        declared: Tensors of the language model that the patched one's records of decoder passes name, and the most
            elements that may differ by them.
        split_error: Why tensors could not be told apart as visual and language; None where they could.
    """

    base: Path
    patched: Path
    tensors: tuple[TensorDiff, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    compared: int
    elements: int
    files: dict[str, FileState]
    headers_identical: bool
    declared: dict[str, int]
    split_error: str | None

    @property
    def elements_changed(self) -> int:
        """Over all tensors."""
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def identical(self) -> bool:
        """Not one byte of one file differs."""
        return all(state == "identical" for state in self.files.values())

    @property
    def outside_visual(self) -> tuple[str, ...]:
        """Tensors outside tower and projector that differ or are on one side only."""
        strangers = (tensor.name for tensor in self.tensors if tensor.part not in ("tower", "projector"))
        return (*strangers, *self.missing, *self.added)

    @property
    def undeclared(self) -> tuple[str, ...]:
        """Tensors of `outside_visual` that no record accounts for, in kind or in number."""
        counts = {tensor.name: tensor.changed for tensor in self.tensors}
        return tuple(name for name in self.outside_visual if not 0 < counts.get(name, 0) <= self.declared.get(name, 0))

    @property
    def language_identical(self) -> bool | None:
        """Whether everything outside tower and projector is the same; None where that cannot be told."""
        return None if self.split_error else not self.outside_visual

    def files_that_are(self, state: FileState) -> tuple[str, ...]:
        """Paths of one state, sorted."""
        return tuple(sorted(path for path, found in self.files.items() if found == state))


def diff_checkpoints(
    base: Path,
    patched: Path,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
) -> CheckpointDiff:
    """Compare two checkpoints.

    Args:
        base: The original's directory.
        patched: The other one.
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, where the split rule gets it wrong.
        modality: What the tower takes in.

    Raises:
        UserError: A module path that does not exist, or one of them is no complete safetensors checkpoint.
    """
    ours, theirs = take_inventory(base), take_inventory(patched)
    parts, split_error = _parts(ours, tower, projector, modality)
    shared = [name for name in ours.tensors if name in theirs.tensors]
    tensors = []
    for name in shared:
        entry = ours.tensors[name]
        changed = _changed_elements(ours, theirs, entry, theirs.tensors[name])
        if changed or _kind(entry) != _kind(theirs.tensors[name]):
            tensors.append(TensorDiff(name, parts.get(name, "unknown"), entry.file, entry.elements, changed))
    return CheckpointDiff(
        base=base,
        patched=patched,
        tensors=tuple(tensors),
        missing=tuple(name for name in ours.tensors if name not in theirs.tensors),
        added=tuple(name for name in theirs.tensors if name not in ours.tensors),
        compared=len(shared),
        elements=sum(ours.tensors[name].elements for name in shared),
        files=_file_states(ours, theirs, {tensor.file for tensor in tensors}),
        headers_identical=ours.shards == theirs.shards
        and all(_header_identical(ours, theirs, shard) for shard in ours.shards),
        declared=declared_language_changes(ours, theirs),
        split_error=split_error,
    )


def _parts(
    inventory: Inventory, tower: str | None, projector: Sequence[str] | None, modality: Modality
) -> tuple[dict[str, str], str | None]:
    try:
        return dict(split_checkpoint(inventory, tower=tower, projector=projector, modality=modality).parts), None
    except UserError as error:
        if tower or projector or modality != "image":
            raise
        # Bytes can be compared whatever the architecture.
        return {}, error.what


def _kind(entry: TensorEntry) -> tuple[str, tuple[int, ...]]:
    return entry.dtype, entry.shape


def _changed_elements(ours: Inventory, theirs: Inventory, left: TensorEntry, right: TensorEntry) -> int:
    if _kind(left) != _kind(right):
        return left.elements
    # Where several values share a byte, bytes are counted.
    width = max(BITS[left.dtype] // 8, 1)
    changed = 0
    pairs = zip(
        chunks(ours.root / left.file, left.begin, left.end),
        chunks(theirs.root / right.file, right.begin, right.end),
        strict=True,
    )
    for a, b in pairs:
        if a != b:
            differs = np.frombuffer(a, dtype=np.uint8) != np.frombuffer(b, dtype=np.uint8)
            changed += int(differs.reshape(-1, width).any(axis=1).sum())
    return changed


def _file_states(ours: Inventory, theirs: Inventory, differing_shards: set[str]) -> dict[str, FileState]:
    left = {file.path: file.size for file in ours.files}
    right = {file.path: file.size for file in theirs.files}
    # Tensors were compared already: a shard's bytes are not read a second time.
    shards = set(ours.shards) & set(theirs.shards)
    states: dict[str, FileState] = {}
    for path in sorted(left.keys() | right.keys()):
        if path not in right:
            states[path] = "missing"
            continue
        if path not in left:
            states[path] = "extra"
            continue
        if path in shards:
            same = path not in differing_shards and _header_identical(ours, theirs, path)
        else:
            same = left[path] == right[path] and same_range(ours.root / path, theirs.root / path, 0, left[path])
        states[path] = "identical" if same else "changed"
    return states


def _header_identical(ours: Inventory, theirs: Inventory, shard: str) -> bool:
    """Whether a shard holds the same tensors at the same places, and equal bytes outside them."""
    places = {entry for entry in ours.tensors.values() if entry.file == shard}
    if places != {entry for entry in theirs.tensors.values() if entry.file == shard}:
        return False
    header = gaps(sorted((entry.begin, entry.end) for entry in places), max(entry.end for entry in places))
    return all(same_range(ours.root / shard, theirs.root / shard, begin, end) for begin, end in header)
