"""From two checkpoints to the patch file between them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np

from vkdsurgeon.checkpoint.digest import Digests, checkpoint_digests
from vkdsurgeon.checkpoint.header import TensorEntry
from vkdsurgeon.checkpoint.inventory import Inventory, check_unchanged, take_inventory
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES, read_bytes
from vkdsurgeon.checkpoint.shard_index import INDEX
from vkdsurgeon.checkpoint.whole_model import PICKLES
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.atomic import check_folder
from vkdsurgeon.files.copy import chunks, same_range, sync
from vkdsurgeon.patch.content import FILE, MASK, METADATA_KEY, VALUES, Change, compressed, itemsize
from vkdsurgeon.patch.read import MOST_FILE_BYTES, open_patch
from vkdsurgeon.patch.summary import summary_of
from vkdsurgeon.results.patch import CheckpointDigests, PatchedTensor, PatchFacts, PatchResult

Compression = Literal["none", "zstd"]


def export_patch(base: Path, patched: Path, out: Path, *, compression: Compression = "none") -> PatchResult:
    """Write what turns one checkpoint into another: masks, new values, and whole files that hold no weights.

    Both are read tensor by tensor, so memory is bounded by the largest tensor.

    Args:
        base: The original.
        patched: A checkpoint with the same tensors at the same places.
        out: The patch file; one that is there is not replaced.
        compression: `zstd` makes it smaller and slower to write.

    Returns:
        What was written.

    Raises:
        UserError: The checkpoints differ in more than values, or the output exists or cannot be written.
        SurgeryError: The disk is full, or a checkpoint changed meanwhile.
    """
    started = time.perf_counter()
    check_folder(out)
    if out.exists() or out.is_symlink():
        raise UserError("the output exists", where=out, remedy="name another file, or remove it")
    ours, theirs = take_inventory(base), take_inventory(patched)
    if any(root.resolve() in out.resolve().parents for root in (base, patched)):
        raise UserError("the output lies inside a checkpoint", where=out, remedy="name a file outside of it")
    _check_layout(ours, theirs)
    digests = checkpoint_digests(ours), checkpoint_digests(theirs)
    handle, payload_name = tempfile.mkstemp(dir=out.absolute().parent, prefix=".vkdsurgeon-patch-", suffix=".part")
    part = Path(payload_name)
    whole = part.with_suffix(".whole")
    try:
        with os.fdopen(handle, "w+b") as payload:
            writing = _Writing(payload, compression)
            _write_tensors(writing, ours, theirs, digests)
            files = _write_files(writing, theirs, digests)
            facts = _facts(writing, digests, files, compression)
            payload.flush()
            _join(whole, writing, facts, part)
        check_unchanged(ours)
        check_unchanged(theirs)
        _place(whole, out)
    except OSError as error:
        raise SurgeryError(f"{out}: writing failed: {error.strerror or error}; nothing was left behind") from error
    finally:
        for path in (part, whole):
            path.unlink(missing_ok=True)
    patch = open_patch(out)
    return summary_of("export", [patch], model=base, out=out, model_bytes=theirs.size, started=started)


class _Writing:
    """Parts of a patch, one after the other, before the header is known."""

    def __init__(self, stream: IO[bytes], compression: Compression) -> None:
        self.stream, self.compression = stream, compression
        self.header: dict[str, dict[str, object]] = {}
        self.tensors: dict[str, PatchedTensor] = {}
        self.length = 0

    def add(self, key: str, data: bytes, dtype: str, *, known_length: bool = True) -> None:
        """Append one part.

        Args:
            key: Its name.
            data: Its bytes.
            dtype: What they are, where they are not compressed.
            known_length: Whether readers know how long it is; otherwise a compressed part begins with its length.
        """
        shape = [len(data) // itemsize(dtype)]
        if self.compression == "zstd":
            packed = compressed(data)
            data = packed if known_length else len(data).to_bytes(8, "little") + packed
            dtype, shape = "U8", [len(data)]
        self.stream.write(data)
        self.header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [self.length, self.length + len(data)]}
        self.length += len(data)


def _check_layout(ours: Inventory, theirs: Inventory) -> None:
    places = [{name: (each.file, each.dtype, each.shape, each.begin) for name, each in side.tensors.items()}
              for side in (ours, theirs)]  # fmt: skip
    if places[0] != places[1]:
        odd = sorted(name for name in places[0].keys() | places[1].keys() if places[0].get(name) != places[1].get(name))
        raise UserError(
            f"{len(odd)} tensors do not lie where the base has them, and a patch holds values alone",
            where=theirs.root,
            value=odd[0],
            expected="the same tensors, dtypes, shapes, files and offsets in both",
            remedy="export from the directory that `unlearn` wrote; one that was saved again is laid out anew",
        )
    for shard in ours.shards:
        begin = min(entry.begin for entry in ours.tensors.values() if entry.file == shard)
        if b"".join(chunks(ours.root / shard, 0, begin)) != b"".join(chunks(theirs.root / shard, 0, begin)):
            raise UserError("the header of a weight file differs", where=theirs.root / shard, value=shard)


def _write_tensors(writing: _Writing, ours: Inventory, theirs: Inventory, digests: tuple[Digests, Digests]) -> None:
    for name, entry in sorted(ours.tensors.items()):
        if digests[0].files[entry.file] == digests[1].files[entry.file]:
            continue
        # Most tensors are the same: to find that out takes neither their memory nor their digests.
        if same_range(ours.root / entry.file, theirs.root / entry.file, entry.begin, entry.end):
            continue
        if (found := _change(ours, theirs, name, entry)) is None:
            continue
        change, result, kept = found
        writing.add(MASK + name, change.packed_mask(), "U8")
        writing.add(VALUES + name, change.values.tobytes(), entry.dtype)
        writing.tensors[name] = PatchedTensor(
            file=entry.file,
            dtype=entry.dtype,
            shape=list(entry.shape),
            changed=len(change.values),
            kept=kept,
            result=result,
            content=change.content_digest(),
        )


def _change(ours: Inventory, theirs: Inventory, name: str, entry: TensorEntry) -> tuple[Change, str, str] | None:
    """The change of one tensor with the digests of its result and of what stays; None where nothing differs."""
    left, right = read_bytes(ours, name), read_bytes(theirs, name)
    if left == right:
        return None
    if entry.dtype not in TORCH_DTYPES:
        raise UserError(
            "a tensor of this dtype differs, and none of our runs changes such",
            where=f"{theirs.root / entry.file}: tensor {name}",
            value=entry.dtype,
            expected=", ".join(TORCH_DTYPES),
        )
    width = itemsize(entry.dtype)
    rows = np.frombuffer(right, np.uint8).reshape(-1, width)
    mask = (np.frombuffer(left, np.uint8).reshape(-1, width) != rows).any(axis=1)
    change = Change(mask, rows[mask])
    return change, hashlib.sha256(right).hexdigest(), change.kept_digest(right)


def _write_files(writing: _Writing, theirs: Inventory, digests: tuple[Digests, Digests]) -> dict[str, str]:
    base, result = digests
    files = {}
    for file in theirs.files:
        if file.path in theirs.shards or result.files[file.path] == base.files.get(file.path):
            continue
        if file.path.endswith((".safetensors", *PICKLES)) or file.path == INDEX or file.size > MOST_FILE_BYTES:
            raise UserError(
                "a file differs that a patch does not carry",
                where=theirs.root / file.path,
                value=f"{file.size} bytes",
                expected=f"files without weights, of at most {MOST_FILE_BYTES >> 20} MiB",
                remedy="take it out of PATCHED, or put it into BASE too",
            )
        writing.add(FILE + file.path, (theirs.root / file.path).read_bytes(), "U8", known_length=False)
        files[file.path] = result.files[file.path]
    return files


def _facts(
    writing: _Writing, digests: tuple[Digests, Digests], files: dict[str, str], compression: Compression
) -> PatchFacts:
    base, result = digests
    return PatchFacts(
        base=CheckpointDigests(weights_digest=base.weights, files=dict(base.files)),
        result=CheckpointDigests(weights_digest=result.weights, files=dict(result.files)),
        tensors=writing.tensors,
        files=files,
        removed=sorted(base.files.keys() - result.files.keys()),
        compression=compression,
    )


def _join(whole: Path, writing: _Writing, facts: PatchFacts, payload: Path) -> None:
    # Not as JSON of pydantic: names of files may be no UTF-8.
    told = json.dumps(facts.model_dump(), separators=(",", ":"))
    header = json.dumps({"__metadata__": {METADATA_KEY: told}, **writing.header}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with whole.open("xb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for data in chunks(payload):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _place(whole: Path, out: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    whole.chmod(0o666 & ~mask)
    try:
        # Unlike a rename it never takes the place of a file that appeared meanwhile.
        os.link(whole, out)
    except FileExistsError:
        raise UserError("the output exists", where=out, remedy="name another file, or remove it") from None
    except OSError:
        os.rename(whole, out)
    with suppress(OSError):
        sync(out.absolute().parent)
