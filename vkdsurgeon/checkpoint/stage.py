"""Write a patched copy of a checkpoint: every file byte for byte, but for the values that surgery changed.

Shards are never parsed and saved again: that would reorder headers and load the language model. A shard is copied by
the kernel, and changed values are written into the copy at their offsets. The copy takes its final name only after
it was compared with the original, so an output directory that exists is whole and verified.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vkdsurgeon.checkpoint.digest import Digesting, Digests, checkpoint_digests
from vkdsurgeon.checkpoint.header import TensorEntry
from vkdsurgeon.checkpoint.inventory import Inventory, changed, check_unchanged, take_inventory
from vkdsurgeon.checkpoint.output import check_output
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.copy import CHUNK, copy_bytes, digest, gaps, linked, same_range, sync, write_at
from vkdsurgeon.files.directories import staged

# Changes closer together than this are written in one go.
BLOCK = 64 << 10

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CopyDigests:
    """What a staged copy is made of.

    Attributes:
        base: The original, read in one pass with the copy.
        patched: The copy, added files not among them.
        linked: Files of the copy that are the original's own, under another name.
    """

    base: Digests
    patched: Digests
    linked: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriteReport:
    """What was written.

    Attributes:
        tensors_changed: Number of tensors with at least one changed element.
        elements_changed: Number of changed elements over all tensors.
        bytes_changed: Bytes that these elements take up.
        weights_digest: Digest of the patched weights, as `eval` and `attack` name the model they measured.
        files: Number of files in the output.
        seconds: Copying, writing, syncing and verifying.
        shards_changed: The files that differ from the original's.
        by_tensor: Tensor name on disk -> number of changed elements, for changed tensors.
        shards_linked: The files that are hard links to the original's.
    """

    tensors_changed: int
    elements_changed: int
    bytes_changed: int
    weights_digest: str
    files: int
    seconds: float
    shards_changed: tuple[str, ...] = ()
    by_tensor: dict[str, int] = field(default_factory=dict)
    shards_linked: tuple[str, ...] = ()


def write_patched(
    inventory: Inventory,
    changes: Mapping[str, torch.Tensor],
    out: Path,
    *,
    extra_files: Mapping[str, bytes | Callable[[CopyDigests], bytes]] = {},
    check_base: Callable[[Digests], None] | None = None,
    check_patched: Callable[[Digests], None] | None = None,
    link_untouched: bool = False,
) -> WriteReport:
    """Write a copy of a checkpoint in which some tensors have new values.

    Args:
        inventory: Inventory of the original, as it was when it was read.
        changes: Name on disk -> new values, in the tensor's dtype and shape on disk. Looked up one at a time, so a
            mapping that reads them when they are asked for bounds the memory.
        out: The directory to make; it may exist only if it is empty.
        extra_files: Files to add: path relative to `out` -> content, or what makes it from the digests.
        check_base: Called with the original's digests before anything is changed in the copy; may raise.
        check_patched: Called with the copy's digests, added files not among them; may raise.
        link_untouched: Make weight files in which nothing is changed hard links to the original's, where the file
            system can; writing to one of the two later changes both.

    Returns:
        What changed, counted against the original's bytes.

    Raises:
        UserError: The output cannot be written there.
        SurgeryError: Not finite values, a full disk, an original that changed meanwhile, or a failed verification;
            no output directory is left.
        ValueError: Unknown tensors, or other dtypes or shapes than on disk.
    """
    started = time.perf_counter()
    for name in changes:
        _check_known(inventory, name)
    untouched = set(inventory.shards) - {inventory.tensors[name].file for name in changes} if link_untouched else set()
    check_output(inventory, out, extra_files, linked=untouched)
    with staged(out) as staging:
        base, shared = _copy(inventory, staging, untouched)
        if check_base is not None:
            check_base(base)
        by_tensor: dict[str, int] = {}
        written: dict[str, list[tuple[int, int]]] = {}
        for name in changes:
            entry = inventory.tensors[name]
            elements, spans = _patch(staging / entry.file, entry, _as_bytes(inventory, name, changes[name]))
            if elements:
                by_tensor[name] = elements
                written.setdefault(entry.file, []).extend(spans)
        patched = checkpoint_digests(inventory, staging, shards_only=True)
        patched = Digests(patched.weights, {**base.files, **patched.files})
        if check_patched is not None:
            check_patched(patched)
        for name, content in extra_files.items():
            _add(staging / name, content if isinstance(content, bytes) else content(CopyDigests(base, patched, shared)))
        _settle(inventory, staging, shared)
        _verify(inventory, staging, changes, written, set(extra_files))
        check_unchanged(inventory)
    return WriteReport(
        tensors_changed=len(by_tensor),
        elements_changed=sum(by_tensor.values()),
        bytes_changed=sum(count * _itemsize(inventory.tensors[name]) for name, count in by_tensor.items()),
        weights_digest=patched.weights,
        files=len(inventory.files) + len(extra_files),
        seconds=time.perf_counter() - started,
        shards_changed=tuple(sorted(written)),
        by_tensor=by_tensor,
        shards_linked=shared,
    )


def _itemsize(entry: TensorEntry) -> int:
    return TORCH_DTYPES[entry.dtype].itemsize


def _check_known(inventory: Inventory, name: str) -> None:
    if name not in inventory.tensors:
        raise ValueError(f"no tensor {name!r} in {inventory.root}")


def _as_bytes(inventory: Inventory, name: str, value: torch.Tensor) -> Bytes:
    entry = inventory.tensors[name]
    if value.dtype != TORCH_DTYPES.get(entry.dtype) or tuple(value.shape) != entry.shape:
        raise ValueError(
            f"tensor {name!r} is {entry.dtype} {list(entry.shape)} on disk, not {value.dtype} {list(value.shape)}"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise SurgeryError(f"tensor {name!r} would hold NaN or infinity; nothing was written")
    data: Bytes = value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return data


def _copy(inventory: Inventory, staging: Path, untouched: Collection[str]) -> tuple[Digests, tuple[str, ...]]:
    for path, _ in inventory.directories:
        (staging / path).mkdir()
    check_unchanged(inventory)
    digesting, shared = Digesting(inventory.shards), []
    for file in inventory.files:
        source, target = inventory.root / file.path, staging / file.path
        if file.path in untouched and linked(source, target):
            shared.append(file.path)
            digesting.read(file.path, source)
        else:
            copy_bytes(source, target, file.size, digesting.hashers(file.path))
    # Neither time nor size tells of a file that was written to in place and dated back; what was read does.
    for name, seen in inventory.seen.items():
        entry = inventory.tensors[name]
        if digest(staging / entry.file, entry.begin, entry.end) != seen:
            raise changed(inventory.root / entry.file)
    return digesting.done(), tuple(shared)


def _patch(path: Path, entry: TensorEntry, data: Bytes) -> tuple[int, list[tuple[int, int]]]:
    """Write what differs; the number of changed elements and the file ranges that were written."""
    elements, spans = 0, []
    descriptor = os.open(path, os.O_RDWR)
    try:
        for begin in range(0, len(data), CHUNK):
            new = data[begin : begin + CHUNK]
            old = np.frombuffer(os.pread(descriptor, len(new), entry.begin + begin), dtype=np.uint8)
            if len(old) != len(new):
                raise SurgeryError(f"{path}: the copy is shorter than the original; nothing was written")
            differing = (new != old).reshape(-1, _itemsize(entry)).any(axis=1)
            if not differing.any():
                continue
            elements += int(differing.sum())
            for first, last in _spans(new != old):
                offset = entry.begin + begin + first
                write_at(descriptor, new[first:last].data, offset)
                spans.append((offset, offset + last - first))
    finally:
        os.close(descriptor)
    return elements, spans


def _spans(changed: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Ranges that cover every changed byte, whole blocks of `BLOCK` bytes joined where they touch."""
    starts = np.arange(0, len(changed), BLOCK)
    touched = np.flatnonzero(np.logical_or.reduceat(changed, starts))
    for run in np.split(touched, np.flatnonzero(np.diff(touched) > 1) + 1):
        yield int(run[0]) * BLOCK, min((int(run[-1]) + 1) * BLOCK, len(changed))


def _add(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.write(content)


def _settle(inventory: Inventory, staging: Path, shared: Collection[str]) -> None:
    """Give files and directories the original's permissions, and make everything durable."""
    for file in inventory.files:
        if file.path not in shared:
            (staging / file.path).chmod(file.mode)
    for directory, _, names in os.walk(staging):
        for name in names:
            sync(Path(directory, name))
    for path, mode in reversed(inventory.directories):
        sync(staging / path)
        (staging / path).chmod(mode)
    sync(staging)
    staging.chmod(stat.S_IMODE(inventory.root.stat().st_mode))


def _verify(
    inventory: Inventory,
    staging: Path,
    changes: Mapping[str, torch.Tensor],
    written: Mapping[str, list[tuple[int, int]]],
    extra: set[str],
) -> None:
    """Prove the staged copy: the same files and tensors, new values where they belong, the original elsewhere."""
    try:
        copy = take_inventory(staging)
    except UserError as error:
        raise SurgeryError(f"the written checkpoint is damaged: {error}") from error
    if copy.tensors != inventory.tensors or {f.path for f in copy.files} != {f.path for f in inventory.files} | extra:
        raise SurgeryError("the written checkpoint holds other files or tensors than the original; it was removed")
    for file in inventory.files:
        outside = gaps(sorted(written.get(file.path, [])), file.size)
        source, target = inventory.root / file.path, staging / file.path
        if not source.samefile(target) and not all(same_range(source, target, begin, end) for begin, end in outside):
            raise SurgeryError(f"{file.path}: the copy differs from the original where nothing was changed")
    for name in changes:
        entry = inventory.tensors[name]
        if not _holds(staging / entry.file, entry, _as_bytes(inventory, name, changes[name])):
            raise SurgeryError(f"tensor {name!r} does not hold the values that were written")


def _holds(path: Path, entry: TensorEntry, data: Bytes) -> bool:
    with path.open("rb", buffering=0) as stream:
        stream.seek(entry.begin)
        for begin in range(0, len(data), CHUNK):
            expected = data[begin : begin + CHUNK]
            if stream.read(len(expected)) != expected.tobytes():
                return False
    return True
