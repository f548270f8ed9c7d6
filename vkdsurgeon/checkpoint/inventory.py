"""Every file of a checkpoint directory, and every tensor in it: index, headers and file lengths agree, both ways.

Of weights nothing but headers is read here, so an inventory of a hundred gigabytes takes no second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vkdsurgeon.checkpoint.header import TensorEntry
from vkdsurgeon.checkpoint.listing import FileEntry, links_outside, list_files, refuse_pointers
from vkdsurgeon.checkpoint.shard_index import (
    INDEX,
    SINGLE,
    beyond_each_other,
    index_warnings,
    read_headers,
    shard_names,
)
from vkdsurgeon.checkpoint.stale import stale_copies
from vkdsurgeon.checkpoint.whole_model import refuse_emptied, refuse_incomplete_models
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.copy import digest

# Lies in a checkpoint while it is patched in place.
IN_PLACE_JOURNAL = "vkdsurgeon.patching.json"


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
    files, directories = list_files(root)
    names = {file.path for file in files}
    refuse_pointers(root, files)
    refuse_incomplete_models(root, names)
    tensors = read_headers(root, shard_names(root, names))
    refuse_emptied(root, tensors)
    unnamed, absent = beyond_each_other(root, tensors) if INDEX in names and SINGLE not in names else ((), ())
    shards = {entry.file for entry in tensors.values()}
    stale = tuple(stale_copies(root, ((file.path, file.size) for file in files), shards))
    links = tuple(links_outside(root, files))
    warnings = (*_warnings(root, stale, links), *index_warnings(unnamed, absent))
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


def _warnings(root: Path, stale: tuple[str, ...], links: tuple[str, ...]) -> Iterator[str]:
    for name in stale:
        yield (
            f"{name} may hold the same weights once more; it is copied as it is, so what is to be forgotten may still "
            "be in it: look, and leave it out with `drop_stale`"
        )
    for name in links:
        yield f"{name} is a link that leaves the checkpoint, to {(root / name).resolve()}; what it leads to is read"
