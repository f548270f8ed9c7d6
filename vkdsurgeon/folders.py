"""Directories that belong to a running process: staged beside their place, scratch, or its own while it runs.

The first two go with their process or, where it was killed, with the next one that makes the like.
The owner holds a lock on its directory, which dies with it: what can be locked is nobody's any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vkdsurgeon.checkpoint.files import sync
from vkdsurgeon.errors import SurgeryError, UserError

_SCRATCH = "vkdsurgeon-"


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh directory beside `out` that takes its place when the block ends, and vanishes when it fails.

    A process that is killed leaves only the staging directory behind; the next run for the same output removes it.

    Raises:
        SurgeryError: The disk is full, or writing or renaming failed otherwise.
        UserError: The directory cannot be made.
    """
    place = out.resolve()
    with ExitStack() as held:
        try:
            staging = held.enter_context(_owned(place.parent, f".{place.name}.staging-"))
        except OSError as error:
            raise UserError(
                "the output cannot be written",
                where=place.parent,
                value=error.strerror,
                remedy="choose another directory",
            ) from error
        try:
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


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory in the system's place for temporary files, removed when the block ends.

    It is its owner's alone (mode 0700). Where the process was killed instead, the next block removes what it left.
    """
    with _owned(Path(tempfile.gettempdir()), _SCRATCH) as folder:
        try:
            yield folder
        finally:
            _discard(folder)


@contextmanager
def alone_in(folder: Path, command: str) -> Iterator[None]:
    """Keep other runs of a command out of a directory that keeps results from run to run.

    Args:
        folder: An existing directory.
        command: The command's name, for the message.

    Raises:
        UserError: Another process is at work there. File systems without locks cannot tell, and let both in.
    """
    try:
        descriptor = take(folder)
    except BlockingIOError:
        raise UserError(f"another `{command}` is at work here", where=folder, remedy="wait for it to end") from None
    try:
        yield
    finally:
        os.close(descriptor)


def take(folder: Path) -> int:
    """A descriptor that keeps other processes from taking the same directory, until it is closed.

    Args:
        folder: An existing directory.

    Raises:
        BlockingIOError: Another process has taken it. File systems without locks cannot tell, and give it to everybody.
        OSError: It cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise BlockingIOError(error.errno, "taken by another process", str(folder)) from error
    return descriptor


@contextmanager
def _owned(parent: Path, prefix: str) -> Iterator[Path]:
    """A fresh directory that nobody removes while the block lasts; those of dead processes are removed first.

    Args:
        parent: An existing directory.
        prefix: What the name begins with; random digits follow.

    Raises:
        OSError: The directory cannot be made.
    """
    _remove_abandoned(parent, prefix)
    folder, lock = _made(parent, prefix)
    try:
        yield folder
    finally:
        os.close(lock)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new directory, and a descriptor that holds its lock."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        # Whoever clears up beside us takes it for abandoned until it is locked, and may be faster.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            _lock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _discard(folder: Path) -> None:
    """Remove a directory and all in it; what cannot be removed stays."""
    # A directory that is read-only in an original would keep its copy's files.
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path, prefix: str) -> None:
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
            if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _discard(path)
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was had. File systems without locks answer no, so that nothing alive is ever removed."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        return False
    return True
