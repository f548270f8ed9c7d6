"""Where a patched checkpoint goes: checked before the work, staged beside its place, swapped in when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vkdsurgeon.checkpoint.files import sync
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.errors import SurgeryError, UserError

# Room for directories and block rounding, beyond the bytes of the files.
SLACK_BYTES = 1 << 20


def check_output(inventory: Inventory, out: Path, extra_files: Iterable[str] = ()) -> None:
    """Find out, before any work, whether a patched copy can be written.

    Args:
        inventory: Of the checkpoint to be copied.
        out: The directory to be made; it may exist only if it is empty.
        extra_files: Paths of files to be added, relative to `out`.

    Raises:
        UserError: The output exists, lies inside the model, cannot be created, has no room, or an added file would
            take the place of one of the checkpoint's.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError("the output exists and is no directory", where=out, remedy="name a directory that is not there")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            "the output directory is not empty",
            where=out,
            expected="a directory that is empty or not there",
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
    parent = place.parent
    if not parent.is_dir():
        raise UserError("the output's parent directory does not exist", where=parent, remedy="create it")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("no permission to write here", where=parent, remedy="choose a directory of your own")
    free = shutil.disk_usage(parent).free
    if free < inventory.size + SLACK_BYTES:
        raise UserError(
            "not enough room for a copy of the checkpoint",
            where=parent,
            value=f"{free} bytes free",
            expected=f"{inventory.size + SLACK_BYTES} bytes",
            remedy="make room or choose another disk",
        )
    _check_extra(inventory, extra_files)


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


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh directory beside `out` that takes its place when the block ends, and vanishes when it fails.

    A process that is killed leaves only the staging directory behind; the next run for the same output removes it.

    Raises:
        SurgeryError: The disk is full, or writing or renaming failed otherwise.
        UserError: The directory cannot be made.
    """
    place = out.resolve()
    prefix = f".{place.name}.staging-"
    _remove_abandoned(place.parent, prefix)
    staging = place.parent / f"{prefix}{secrets.token_hex(4)}"
    try:
        staging.mkdir(mode=0o700)
        lock = os.open(staging, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            "the output cannot be written", where=place.parent, value=error.strerror, remedy="choose another directory"
        ) from error
    try:
        _try_lock(lock)
        yield staging
        os.rename(staging, place)
        sync(place.parent)
    except OSError as error:
        _discard(staging)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if full else f"writing failed: {error}"
        raise SurgeryError(f"{out}: {problem}; nothing was left behind") from error
    except BaseException:
        _discard(staging)
        raise
    finally:
        os.close(lock)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove staging directories whose writer is dead: the lock on them died with it."""
    ours = re.compile(re.escape(prefix) + "[0-9a-f]{8}")
    for path in (parent / name for name in os.listdir(parent) if ours.fullmatch(name)):
        try:
            # Only a real directory of our own, never what a link of that name leads to.
            if path.lstat().st_uid != os.geteuid():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if _try_lock(descriptor):
                _discard(path)
        finally:
            os.close(descriptor)


def _discard(staging: Path) -> None:
    # A directory that is read-only in the original would keep its copy's files.
    for directory, _, _ in os.walk(staging):
        os.chmod(directory, 0o700)
    shutil.rmtree(staging, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    """Whether the lock was free. File systems without locks answer no, so that nothing alive is ever removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
