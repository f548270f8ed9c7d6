"""Directories that belong to a running process: staged beside their place, scratch, or its own while it runs.

The first two go with their process or, where it was killed, with the next one that makes the like. A mark inside
says that the directory was made here, whatever its name; the owner holds a lock on it, which dies with the owner: what
bears the mark and can be locked is nobody's any more. A kill just before the mark is written, or after it was removed,
leaves an empty directory; that goes by rmdir, which can lose nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.copy import sync
from vkdsurgeon.files.library_errors import machine_or
from vkdsurgeon.files.names import fitting

_SCRATCH, _STAGING, _CLAIM = "vkdsurgeon-", ".staging-", ".running"
_TRIES = 100
DIGITS = 8
_PRIVATE = 0o700
# Beside the directory that is given away, so that whoever gets it finds it empty.
_MARK, CONTENT = ".vkdsurgeon-owned", "content"


def refuse_non_empty(out: Path) -> None:
    """Refuse a directory that has something in it, or a file in its place.

    Raises:
        UserError: `out` cannot be used.
    """
    if out.exists() and not out.is_dir():
        raise UserError("this is not a directory", where=out, remedy="name a directory that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise UserError("the output directory is not empty", where=out, remedy="name a new or an empty directory")


def make_parent(out: Path) -> None:
    """Make the directory that an output is to lie in.

    Raises:
        UserError: It cannot be made.
    """
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        said = error.strerror if isinstance(error, OSError) else "a link that leads to itself"
        raise UserError(
            "the output cannot be written there", where=out, value=said, remedy="name another directory"
        ) from None


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh directory beside `out` that takes its place when the block ends, and vanishes when it fails.

    A process that is killed leaves only the staging directory behind; the next run for the same output removes it.

    Raises:
        SurgeryError: The disk is full, or writing or renaming failed otherwise.
        UserError: The directory cannot be made there.
    """
    place = out.resolve()
    with ExitStack() as held:
        try:
            owned = held.enter_context(_owned(place.parent, staging_prefix(place)))
        except OSError as error:
            told = UserError(
                "the output cannot be written",
                where=place.parent,
                value=error.strerror,
                remedy="choose another directory",
            )
            raise machine_or(told, error) from error
        staging = owned / CONTENT
        try:
            yield staging
            _move(staging, place)
            # The output is there; where its directory cannot be synced, it is as sure as that file system gets.
            with suppress(OSError):
                sync(place.parent)
        except OSError as error:
            _discard(owned)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            problem = "the disk is full" if full else f"writing failed: {error}"
            raise SurgeryError(f"{out}: {problem}; nothing was left behind") from error
        except BaseException:
            _discard(owned)
            raise
        _discard(owned)


def staging_prefix(place: Path) -> str:
    """The prefix of the names of staging directories for an output; digits follow.

    Args:
        place: The output.
    """
    return f".{fitting(place, 1 + len(_STAGING) + DIGITS)}{_STAGING}"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory in the system's place for temporary files, removed when the block ends.

    It is its owner's alone (mode 0700). Where the process was killed instead, the next block removes what it left.
    """
    with _owned(Path(tempfile.gettempdir()), _SCRATCH) as owned:
        try:
            yield owned / CONTENT
        finally:
            _discard(owned)


@contextmanager
def alone_in(folder: Path, command: str, *, shared: bool = False) -> Iterator[None]:
    """Keep other runs of a command out of a directory that keeps results from run to run.

    Args:
        folder: An existing directory.
        command: The command's name, for the message.
        shared: Let others in that are shared as well; they write nothing that this one does.

    Raises:
        UserError: Another process is at work there. File systems without locks cannot tell, and let both in.
    """
    try:
        descriptor = take(folder, shared=shared)
    except BlockingIOError:
        raise UserError(f"another `{command}` is at work here", where=folder, remedy="wait for it to end") from None
    try:
        yield
    finally:
        os.close(descriptor)


def take(folder: Path, *, shared: bool = False) -> int:
    """A descriptor that keeps other processes from taking the same directory, until it is closed.

    Args:
        folder: An existing directory.
        shared: Let others take it that are shared as well.

    Raises:
        BlockingIOError: Another process has taken it. File systems without locks cannot tell, and give it to everybody.
        OSError: It cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise BlockingIOError(error.errno, "taken by another process", str(folder)) from error
    return descriptor


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs from making the same output while the block lasts.

    What holds the lock is an empty directory beside `out`. One that a killed run left behind is taken over by the next.
    Where none can be had, and on file systems without locks, the first to be done wins, and the other one fails then.

    Args:
        out: In an existing directory.

    Raises:
        UserError: Another run is making it.
    """
    folder = _claim_on(out.resolve())
    descriptor: int | None = None
    with suppress(OSError):
        for _ in range(_TRIES):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            try:
                held = take(folder)
            except FileNotFoundError:
                continue
            except BlockingIOError:
                raise UserError(
                    "another run is making this output", where=out, remedy="wait for it, or name another directory"
                ) from None
            # Whoever had it may have removed it in between, and what is locked now is no longer there.
            if is_at(held, folder):
                descriptor = held
                break
            os.close(held)
    try:
        yield
    finally:
        if descriptor is not None:
            _release(descriptor, folder)


def clear_up(out: Path) -> None:
    """Remove what a killed run left beside its output: its claim and what it had staged. A living run's stays.

    Args:
        out: The output.
    """
    # Before Python 3.13 a link that leads to itself is a RuntimeError.
    with suppress(OSError, RuntimeError):
        place = out.resolve()
        with suppress(OSError):
            folder = _claim_on(place)
            _release(take(folder), folder)
        _remove_abandoned(place.parent, staging_prefix(place))


def _claim_on(place: Path) -> Path:
    return place.parent / f".{fitting(place, 1 + len(_CLAIM))}{_CLAIM}"


def _release(descriptor: int, folder: Path) -> None:
    # Whatever else is in it, or by now in its place, is somebody's.
    if is_at(descriptor, folder):
        with suppress(OSError):
            folder.rmdir()
    os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open directory is the one at a path.

    Args:
        descriptor: File descriptor of the open directory.
        path: The path; a link is not followed.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except OSError:
        return False


@contextmanager
def _owned(parent: Path, prefix: str) -> Iterator[Path]:
    """A fresh marked directory that nobody removes while the block lasts; those of dead processes are removed first.

    Args:
        parent: An existing directory.
        prefix: What the name begins with; random digits follow.

    Raises:
        OSError: The directory cannot be made.
    """
    _remove_abandoned(parent, prefix)
    owned, lock = _made(parent, prefix)
    try:
        (owned / _MARK).write_text(_mark_of(owned), encoding="ascii")
        (owned / CONTENT).mkdir(mode=_PRIVATE)
        yield owned
    except BaseException:
        _discard(owned)
        raise
    finally:
        os.close(lock)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    """A fresh empty directory of a random name, and the descriptor that keeps others from removing it.

    Raises:
        OSError: It cannot be made.
    """
    for _ in range(_TRIES):
        owned = parent / f"{prefix}{secrets.token_hex(DIGITS // 2)}"
        owned.mkdir(mode=_PRIVATE)
        try:
            lock = os.open(owned, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Whoever clears up beside us took it for abandoned before it was locked.
            continue
        except OSError:
            owned.rmdir()
            raise
        # The lock comes before the mark, so that nobody ever finds one without the other.
        _lock(lock, fcntl.LOCK_EX)
        if is_at(lock, owned):
            return owned, lock
        os.close(lock)
    raise OSError(errno.EAGAIN, "others keep removing the directory", str(parent))


def _mark_of(owned: Path) -> str:
    # A copy has another number: it was made by somebody who wants to keep it.
    return f"made by vkdsurgeon, which removes it; directory {owned.lstat().st_ino}\n"


def _is_bare(folder: Path) -> bool:
    # Empty and closed to others, as it is made here.
    return stat.S_IMODE(folder.lstat().st_mode) == _PRIVATE and not os.listdir(folder)


def _is_marked(folder: Path) -> bool:
    mark = folder / _MARK
    try:
        return not mark.is_symlink() and mark.read_text(encoding="ascii") == _mark_of(folder)
    except (OSError, ValueError):
        return False


def _move(staging: Path, place: Path) -> None:
    """Rename a directory to its final place, and keep its permissions."""
    mode = stat.S_IMODE(staging.stat().st_mode)
    # A new parent is written into the directory itself, which its permissions may forbid.
    if not mode & stat.S_IWUSR:
        staging.chmod(mode | stat.S_IWUSR)
    os.rename(staging, place)
    if not mode & stat.S_IWUSR:
        place.chmod(mode)


def _discard(owned: Path) -> None:
    """Remove a marked directory and all in it; what cannot be removed stays."""
    content = owned / CONTENT
    # A directory that is read-only in an original would keep its copy's files.
    for directory, _, _ in os.walk(content):
        with suppress(OSError):
            os.chmod(directory, 0o700)
    shutil.rmtree(content, ignore_errors=True)
    if not content.exists():
        # The mark goes last: without it nobody would remove the rest.
        with suppress(OSError):
            (owned / _MARK).unlink(missing_ok=True)
            owned.rmdir()


def _remove_abandoned(parent: Path, prefix: str) -> None:
    ours = re.compile(re.escape(prefix) + f"[0-9a-f]{{{DIGITS}}}")
    for path in (parent / name for name in os.listdir(parent) if ours.fullmatch(name)):
        try:
            # Only a real directory of our own, never what a link of that name leads to.
            if path.lstat().st_uid != os.geteuid():
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                continue
            if _is_marked(path):
                _discard(path)
            elif _is_bare(path):
                path.rmdir()
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was had. File systems without locks answer no, so that nothing alive is ever removed."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        return False
    return True
