"""Every file of a checkpoint directory, and every tensor in it: index, headers and file lengths agree, both ways.

Of weights nothing but headers is read here, so an inventory of a hundred gigabytes takes no second.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from vkdsurgeon.checkpoint.header import TensorEntry, read_header
from vkdsurgeon.checkpoint.stale import stale_copies
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.files.library_errors import machine_or

__all__ = [
    "FileEntry",
    "Inventory",
    "TensorEntry",
    "changed",
    "check_unchanged",
    "read_bytes",
    "read_json",
    "read_tensor",
    "take_inventory",
]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Lies in a checkpoint while it is patched in place.
IN_PLACE_JOURNAL = "vkdsurgeon.patching.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")

_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024
# What is read here or by transformers; an image in the documentation may well be a pointer.
_TEXTS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
_READ_HERE = (".safetensors", *_TEXTS)
# A tokenizer has up to about 40 MB.
_LARGEST_TEXT = 64 << 20

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
        path: Its path relative to the checkpoint (POSIX).
        size: Its length in bytes.
        mode: Its permission bits.
        modified: When it was written last, in nanoseconds.
        number: Its number in the file system, which another file of the same name does not have.
        digest: SHA-256 of its content, in hex, where it is a text that models are loaded by; empty for others.
    """

    path: str
    size: int
    mode: int
    modified: int
    number: int
    digest: str = ""


@dataclass(frozen=True)
class Inventory:
    """What lies in a checkpoint directory.

    Attributes:
        root: The directory.
        files: Every file, sorted by path; symbolic links to files are followed, so content counts.
        directories: Every directory below the root with its permission bits, parents first.
        tensors: Every tensor by its name on disk.
        warnings: What the user should know before going on.
        stale: Files that may hold the same weights once more.
        links: Files that are links to places outside of the directory, but for the store of a download cache.
        unnamed: Tensors that lie in a shard and not in the index; transformers loads them.
        absent: Names in the index of tensors that no shard holds.
        seen: Digest of every tensor that was read, by name: whatever is read or copied later must still have it.
    """

    root: Path
    files: tuple[FileEntry, ...]
    directories: tuple[tuple[str, int], ...]
    tensors: dict[str, TensorEntry]
    warnings: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    seen: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def shards(self) -> tuple[str, ...]:
        """The files that hold tensors, sorted."""
        return tuple(sorted({entry.file for entry in self.tensors.values()}))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def without_stale(self) -> Inventory:
        """The same without the files that may hold the same weights once more, as if they were not there."""
        left = set(self.stale)
        return replace(self, files=tuple(file for file in self.files if file.path not in left), stale=())


def take_inventory(root: Path, *, patching: bool = False) -> Inventory:
    """List a checkpoint directory and check that its weight files are whole and agree with each other.

    Args:
        root: A Hugging Face checkpoint directory with safetensors weights.
        patching: Take it although an in-place patch was begun in it and not finished.

    Returns:
        The inventory; no tensor was read.

    Raises:
        UserError: Anything missing, truncated, contradictory, pickled, patched in part, or not a complete model.
    """
    if not root.is_dir():
        problem = "not a directory" if root.exists() else "no such directory"
        raise UserError(problem, where=root, expected="a Hugging Face checkpoint directory")
    if not patching and (root / IN_PLACE_JOURNAL).exists():
        raise UserError(
            "an in-place patch was interrupted here, so the weights are old in part and new in part",
            where=root / IN_PLACE_JOURNAL,
            expected="a whole checkpoint",
            remedy="run the same `vkdsurgeon patch apply --in-place` again; it goes on",
        )
    try:
        return _take_inventory(root)
    except PermissionError as error:
        raise UserError("no permission to read", where=error.filename, remedy="change its permissions") from error


def _take_inventory(root: Path) -> Inventory:
    files, directories = _list_files(root)
    names = {file.path for file in files}
    _refuse_pointers(root, files)
    _refuse_incomplete_models(root, names)
    tensors = _read_headers(root, _shards(root, names))
    _refuse_emptied(root, tensors)
    unnamed, absent = _beyond_each_other(root, tensors) if INDEX in names and SINGLE not in names else ((), ())
    shards = {entry.file for entry in tensors.values()}
    stale = tuple(stale_copies(root, ((file.path, file.size) for file in files), shards))
    links = tuple(_links_outside(root, files))
    warnings = (*_warnings(root, stale, links), *_index_warnings(unnamed, absent))
    return Inventory(root, files, directories, tensors, warnings, stale, links, unnamed, absent)


def check_unchanged(inventory: Inventory) -> None:
    """Refuse to go on where a file is not the one that the inventory was taken of.

    Raises:
        SurgeryError: One was replaced, written to or removed.
    """
    for file in inventory.files:
        path = inventory.root / file.path
        try:
            facts = path.stat()
        except OSError as error:
            raise changed(path) from error
        if (facts.st_size, facts.st_mtime_ns, facts.st_ino) != (file.size, file.modified, file.number):
            raise changed(path)
        # A file that was written to in place and dated back has all of these as before.
        if file.digest and digest(path) != file.digest:
            raise changed(path)


def changed(path: Path) -> SurgeryError:
    """The error for a checkpoint that is no longer what was worked on."""
    return SurgeryError(
        f"{path}: the file changed while the model was worked on; nothing was written. "
        "Put the checkpoint back as it was, or start again with it as it is"
    )


def read_bytes(inventory: Inventory, name: str) -> bytearray:
    """The bytes of one tensor as they lie on disk; nothing else is read.

    Raises:
        UserError: No tensor of this name, or the file became shorter since the inventory.
        SurgeryError: They are others than when they were read before.
    """
    entry = inventory.tensors.get(name)
    if entry is None:
        raise UserError("no such tensor", where=inventory.root, value=name)
    data = bytearray(entry.nbytes)
    view = memoryview(data)
    path = inventory.root / entry.file
    with path.open("rb", buffering=0) as stream:
        stream.seek(entry.begin)
        done = 0
        while done < len(data):
            got = stream.readinto(view[done:])
            if not got:
                raise UserError("the file became shorter while it was read", where=path, value=entry.begin + done)
            done += got
    found = hashlib.sha256(data).hexdigest()
    if inventory.seen.setdefault(name, found) != found:
        raise changed(path)
    return data


def read_tensor(inventory: Inventory, name: str) -> torch.Tensor:
    """One tensor on the CPU, in its dtype and shape on disk.

    Raises:
        UserError: No tensor of this name, or a dtype that torch cannot hold.
    """
    data = read_bytes(inventory, name)
    entry = inventory.tensors[name]
    dtype = TORCH_DTYPES.get(entry.dtype)
    if dtype is None:
        raise UserError(
            "tensors of this dtype cannot be changed",
            where=f"{inventory.root / entry.file}: tensor {name}",
            value=entry.dtype,
            expected="F32, F16 or BF16",
            remedy="start from the checkpoint before it was quantised",
        )
    if not data:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: The file is missing, is not UTF-8 JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="download or export the checkpoint again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path, remedy="download or export the file again") from error
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=path, value=type(value).__name__, expected="an object")
    return value


def _list_files(root: Path) -> tuple[tuple[FileEntry, ...], tuple[tuple[str, int], ...]]:
    files: list[FileEntry] = []
    directories: list[tuple[str, int]] = []
    pending = [root]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as listing:
            children = sorted(listing, key=lambda child: child.name)
        for child in children:
            path = Path(child.path)
            relative = path.relative_to(root).as_posix()
            try:
                facts = child.stat(follow_symlinks=True)
            except OSError as error:
                problem = "a symbolic link that leads nowhere" if child.is_symlink() else "cannot be read"
                raise machine_or(
                    UserError(problem, where=path, value=error.strerror, remedy="restore the file"), error
                ) from error
            mode = stat.S_IMODE(facts.st_mode)
            if stat.S_ISREG(facts.st_mode):
                found = digest(path) if relative.endswith(_TEXTS) and facts.st_size <= _LARGEST_TEXT else ""
                files.append(FileEntry(relative, facts.st_size, mode, facts.st_mtime_ns, facts.st_ino, found))
            elif stat.S_ISDIR(facts.st_mode) and not child.is_symlink():
                directories.append((relative, mode))
                pending.append(path)
            else:
                linked = child.is_symlink() and stat.S_ISDIR(facts.st_mode)
                raise UserError(
                    "a symbolic link to a directory, which is not followed"
                    if linked
                    else "neither a file nor a directory",
                    where=path,
                    value=str(path.resolve()) if linked else None,
                    expected="regular files, directories, and symbolic links to files",
                    remedy="remove it or put a copy in its place",
                )
    return tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(directories))


def _links_outside(root: Path, files: tuple[FileEntry, ...]) -> Iterator[str]:
    base = root.resolve()
    for file in files:
        path = root / file.path
        # Directories are never followed, so that a file leaves by a link of its own alone.
        if path.is_symlink():
            target = path.resolve()
            # A snapshot of huggingface_hub consists of such links.
            cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
            if base not in target.parents and not cached:
                yield file.path


def _refuse_pointers(root: Path, files: tuple[FileEntry, ...]) -> None:
    """Git LFS leaves a few lines of text where a file was not fetched."""
    for file in files:
        if file.size <= _LARGEST_POINTER and file.path.endswith(_READ_HERE):
            with (root / file.path).open("rb") as stream:
                found = stream.read(len(_POINTER)) == _POINTER
            if found:
                raise UserError(
                    "this is a Git LFS pointer, not the file itself",
                    where=root / file.path,
                    value=f"{file.size} bytes of text",
                    expected="the content that the pointer stands for",
                    remedy="fetch it: git lfs pull, in the directory of the checkpoint",
                )


def _refuse_emptied(root: Path, tensors: dict[str, TensorEntry]) -> None:
    empty = [name for name, entry in tensors.items() if 0 in entry.shape]
    if empty:
        raise UserError(
            f"{len(empty)} tensors hold no value, as DeepSpeed ZeRO-3 saves them where nobody gathers the parts",
            where=root / tensors[empty[0]].file,
            value=empty[0],
            expected="every parameter whole",
            remedy="save with stage3_gather_16bit_weights_on_model_save, or join the parts with zero_to_fp32.py",
        )


def _refuse_incomplete_models(root: Path, names: set[str]) -> None:
    whole = SINGLE in names or INDEX in names
    if "adapter_config.json" in names and whole:
        raise UserError(
            "a PEFT adapter lies beside whole weights: some readers apply it, and some do not",
            where=root / "adapter_config.json",
            expected="a checkpoint that is the same to every reader",
            remedy="merge the adapter (merge_and_unload, then save_pretrained), or move its files elsewhere",
        )
    if "adapter_config.json" in names:
        raise UserError(
            "this is a PEFT adapter, not a whole model",
            where=root / "adapter_config.json",
            expected="a checkpoint with the model's own weights",
            remedy="merge the adapter first (merge_and_unload, then save_pretrained)",
        )
    if not whole and (quantised := sorted(name for name in names if name.lower().endswith(".gguf"))):
        raise UserError(
            "the weights are GGUF, in which they are packed for another program",
            where=root / quantised[0],
            expected=f"{SINGLE} or {INDEX}",
            remedy="use the checkpoint that the GGUF was made from",
        )
    if "config.json" not in names and "params.json" in names:
        raise UserError(
            "the checkpoint has Mistral's own layout alone",
            where=root / "params.json",
            expected=f"config.json with {SINGLE} or {INDEX}",
            remedy="use the checkpoint's version for transformers, or convert it with transformers' conversion script",
        )
    if "config.json" not in names:
        raise UserError("no such file", where=root / "config.json", expected="a Hugging Face checkpoint directory")
    if SINGLE in names or INDEX in names:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise UserError(
            "the weights are pickles, which are never opened",
            where=root,
            value=pickles[0],
            expected=f"{SINGLE} or {INDEX}",
            remedy="convert the checkpoint to safetensors (save_pretrained does) where its origin is trusted",
        )
    raise UserError("no weights found", where=root, expected=f"{SINGLE} or {INDEX}")


def _shards(root: Path, names: set[str]) -> list[str]:
    if SINGLE not in names:
        index = _weight_map(root)
        for shard in sorted(set(index.values())):
            if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
                raise UserError(
                    "the index names something that is no shard of this directory",
                    where=root / INDEX,
                    value=shard,
                    expected="the name of a .safetensors file beside the index",
                )
            if shard not in names:
                raise UserError(
                    "a shard that the index names is missing",
                    where=root / shard,
                    expected=f"{len(set(index.values()))} shards",
                    remedy="download or export the checkpoint again",
                )
        return sorted(set(index.values()))
    if INDEX in names and set(_weight_map(root).values()) != {SINGLE}:
        raise UserError(
            f"both {SINGLE} and an index of other shards: readers disagree on which one counts",
            where=root,
            expected="one of the two",
            remedy="remove the one that is stale",
        )
    return [SINGLE]


def _weight_map(root: Path) -> dict[str, str]:
    index = read_json(root / INDEX)
    weight_map = index.get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise UserError(
            "the index has no valid weight_map",
            where=root / INDEX,
            value=weight_map,
            expected='"weight_map": {"tensor name": "shard name", ...}',
        )
    if not isinstance(index.get("metadata"), dict):
        raise UserError(
            "the index has no metadata, without which transformers does not load a model",
            where=root / INDEX,
            value=index.get("metadata"),
            expected='"metadata": {...}, which may be empty',
            remedy='add "metadata": {} beside "weight_map"',
        )
    return weight_map


def _read_headers(root: Path, shards: list[str]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in read_header(root / shard, shard):
            if entry.name in tensors:
                raise UserError(
                    "a tensor lies in two shards",
                    where=f"{root / shard}: tensor {entry.name}",
                    value=tensors[entry.name].file,
                    expected="each tensor once",
                    remedy="remove the stale shard and rebuild the index",
                )
            tensors[entry.name] = entry
    if not tensors:
        raise UserError("the weight files hold no tensor", where=root)
    return tensors


def _beyond_each_other(root: Path, tensors: dict[str, TensorEntry]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors that the index does not name, and names of it that are no tensors.

    Raises:
        UserError: A tensor lies in another shard than the index says.
    """
    index = _weight_map(root)
    for name, shard in index.items():
        if name in tensors and tensors[name].file != shard:
            raise UserError(
                f"the index promises tensor {name}, which this shard does not hold",
                where=root / shard,
                value=tensors[name].file,
                remedy="rebuild the index or download the checkpoint again",
            )
    return tuple(name for name in tensors if name not in index), tuple(name for name in index if name not in tensors)


def _index_warnings(unnamed: tuple[str, ...], absent: tuple[str, ...]) -> Iterator[str]:
    if unnamed:
        yield (
            f"{len(unnamed)} tensors lie in the shards and not in {INDEX}, such as {unnamed[0]}: transformers loads "
            "them, other readers may not; rebuild the index"
        )
    if absent:
        yield f"{INDEX} names {len(absent)} tensors that no shard holds, such as {absent[0]}; rebuild the index"


def _warnings(root: Path, stale: tuple[str, ...], links: tuple[str, ...]) -> Iterator[str]:
    for name in stale:
        yield (
            f"{name} may hold the same weights once more; it is copied as it is, so what is to be forgotten may still "
            "be in it: look, and leave it out with `drop_stale`"
        )
    for name in links:
        yield f"{name} is a link that leaves the checkpoint, to {(root / name).resolve()}; what it leads to is read"
