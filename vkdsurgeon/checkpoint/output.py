"""Where a patched checkpoint goes: checked before the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import CONTENT, DIGITS, claimed, clear_up, staging_prefix
from vkdsurgeon.files.library_errors import machine_or

# Room for directories and block rounding, beyond the bytes of the files.
SLACK_BYTES = 1 << 20
# What Linux takes in one call.
_LONGEST_PATH = 4096


def check_output(
    inventory: Inventory, out: Path, extra_files: Iterable[str] = (), *, linked: Collection[str] = ()
) -> None:
    """Find out, before any work, whether a patched copy can be written.

    Args:
        inventory: Inventory of the checkpoint to be copied.
        out: The directory to be made; it may exist only if it is empty.
        extra_files: Paths of files to be added, relative to `out`.
        linked: Files that need no room, as they are linked.

    Raises:
        UserError: The output exists, lies inside the model, cannot be created, has no room, or an added file would
            take the place of one of the checkpoint's.
    """
    if out.is_symlink() and not out.exists():
        raise UserError(
            "the output is a link that leads nowhere", where=out, value=os.readlink(out), remedy="name a new directory"
        )
    if out.exists() and not out.is_dir():
        raise UserError("the output exists and is no directory", where=out, remedy="name a new directory")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            "the output directory is not empty",
            where=out,
            expected="a new or empty directory",
            remedy="name another one: files of two models must never mix",
        )
    if os.path.ismount(out):
        raise UserError(
            "the output is a mount point, which a finished directory cannot take the place of",
            where=out,
            expected="a directory inside the mount",
            remedy=f"name {out / 'patched'}, for example",
        )
    place, model = out.resolve(), inventory.root.resolve()
    if place == model or model in place.parents:
        raise UserError("the output lies inside the model", where=out, remedy="name a directory outside it")
    parent = next(each for each in place.parents if each.exists())
    if not parent.is_dir():
        raise UserError("a file is in the place of the output's parent directory", where=parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("no permission to write here", where=parent, remedy="choose a directory of your own")
    free = shutil.disk_usage(parent).free
    needed = SLACK_BYTES + sum(file.size for file in inventory.files if file.path not in linked)
    if free < needed:
        raise UserError(
            "not enough room for a copy of the checkpoint",
            where=parent,
            value=f"{free} bytes free",
            expected=f"{needed} bytes",
            remedy="make room or choose another disk",
        )
    extra = tuple(extra_files)
    _check_extra(inventory, extra)
    _check_lengths(inventory, place, extra)


@contextmanager
def output_claimed(
    inventory: Inventory, out: Path, extra_files: Iterable[str] = (), *, linked: Collection[str] = ()
) -> Iterator[None]:
    """`check_output`, and nobody else makes the same output while the block lasts. Directories above it are made.

    Args:
        inventory: Inventory of the checkpoint to be copied.
        out: The directory to be made.
        extra_files: Paths of files to be added.
        linked: As for `check_output`.

    Raises:
        UserError: As `check_output`; or another run is writing this output.
    """
    extra = tuple(extra_files)
    try:
        check_output(inventory, out, extra, linked=linked)
    except UserError:
        # The output in the way may be that of a run which was killed before it had cleared up behind it.
        clear_up(out)
        raise
    with _with_parents(out.resolve()), claimed(out):
        # It may have been made between the two.
        check_output(inventory, out, extra, linked=linked)
        yield


@contextmanager
def _with_parents(place: Path) -> Iterator[None]:
    """Make the directories above an output; those that are still empty go again where the block fails."""
    missing = [each for each in place.parents if not each.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        told = UserError("the output's parent directory cannot be made", where=place.parent, value=error.strerror)
        raise machine_or(told, error) from error
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def check_links(inventory: Inventory, follow: bool) -> None:
    """Refuse links that leave the checkpoint, whose content would be published with the copy.

    Args:
        inventory: Inventory of the checkpoint.
        follow: Whether they are allowed.

    Raises:
        UserError: There are such links.
    """
    if inventory.links and not follow:
        name = inventory.links[0]
        raise UserError(
            f"{len(inventory.links)} links leave the checkpoint, and the copy would hold what they lead to",
            where=inventory.root / name,
            value=str((inventory.root / name).resolve()),
            expected="files, and links that stay inside or lead to the cache of huggingface_hub",
            remedy="give `follow_links` where they are yours, or put copies in their place",
        )


def _check_lengths(inventory: Inventory, place: Path, extra_files: Iterable[str]) -> None:
    """Refuse paths that would become too long while the copy is staged beside its place."""
    staging = place.parent / (staging_prefix(place) + "0" * DIGITS) / CONTENT
    longest = max((*(file.path for file in inventory.files), *extra_files), key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(staging / longest))
    if length >= _LONGEST_PATH:
        raise UserError(
            "the path of the output is too long",
            where=place,
            value=length,
            expected=f"paths of fewer than {_LONGEST_PATH} bytes, {staging / longest} among them",
            remedy="choose a directory with a shorter path",
        )


def _check_extra(inventory: Inventory, extra_files: Iterable[str]) -> None:
    taken = {file.path for file in inventory.files} | {path for path, _ in inventory.directories}
    for name in extra_files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"not a path inside the output: {name!r}")
        if {str(path), *map(str, path.parents)} & taken - {"."}:
            raise UserError(
                "the checkpoint already holds a file of the name that is to be added",
                where=inventory.root / name,
                remedy="rename the file in the checkpoint",
            )
