"""Bytes from one file to another: copied by the kernel where it can, compared in chunks of a bounded size."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

CHUNK = 8 << 20

# What the calls below say where a file system cannot do them.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


def copy_bytes(source: Path, target: Path, size: int, hashers: Iterable[Hasher] = ()) -> None:
    """Copy `size` bytes into a new file.

    Args:
        source: Read from its start.
        target: Must not exist.
        size: The length the source is known to have.
        hashers: Take in the source's bytes on the way, each piece right after it was copied.

    Raises:
        OSError: Reading or writing failed, or the source ended early.
    """
    listening = tuple(hashers)
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        done = 0
        while done < size:
            # A piece that was just copied is still in memory.
            most = min(size - done, CHUNK) if listening else size - done
            step = _copy_some(reader.fileno(), writer.fileno(), done, most)
            if step == 0:
                raise OSError(errno.EIO, "the file became shorter while it was copied", str(source))
            if listening:
                data = _read_at(reader.fileno(), step, done)
                for hasher in listening:
                    hasher.update(data)
            done += step


def linked(source: Path, target: Path) -> bool:
    """Make `target` another name of the file `source`; False where the file system or its owner does not allow it.

    Raises:
        OSError: Anything else went wrong.
    """
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno == errno.EMLINK:
            return False
        raise
    return True


def _read_at(source: int, size: int, offset: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.pread(source, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)


def _copy_some(source: int, target: int, offset: int, left: int) -> int:
    """Copy up to `left` bytes at `offset` with the best call there is; the number of bytes copied."""
    os.lseek(target, offset, os.SEEK_SET)
    if hasattr(os, "copy_file_range"):
        try:
            if copied := os.copy_file_range(source, target, left, offset, offset):
                return copied
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    if hasattr(os, "sendfile"):
        try:
            if copied := os.sendfile(target, source, offset, left):
                return copied
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    data = os.pread(source, min(left, CHUNK), offset)
    return write_at(target, data, offset)


def write_at(target: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of `data` at `offset`; its length."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(target, view[done:], offset + done)
    return done


def sync(path: Path) -> None:
    """Make a file's or a directory's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def chunks(path: Path, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes [begin, end) of a file, in order, a bounded piece at a time; fewer where the file ends before."""
    with path.open("rb", buffering=0) as stream:
        stream.seek(begin)
        left = end - begin if end is not None else None
        while left is None or left > 0:
            data = stream.read(CHUNK if left is None else min(CHUNK, left))
            if not data:
                return
            if left is not None:
                left -= len(data)
            yield data


def digest(path: Path, begin: int = 0, end: int | None = None) -> str:
    """SHA-256 of the bytes [begin, end) of a file, as hex."""
    sha = hashlib.sha256()
    for data in chunks(path, begin, end):
        sha.update(data)
    return sha.hexdigest()


def same_range(left: Path, right: Path, begin: int, end: int) -> bool:
    """Whether two files hold the same bytes in [begin, end)."""
    ours, theirs = chunks(left, begin, end), chunks(right, begin, end)
    seen = 0
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            return False
        seen += len(a)
    return seen == end - begin


def gaps(ranges: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges of [0, size) outside disjoint sorted `ranges`."""
    position = 0
    for begin, end in ranges:
        if position < begin:
            yield position, begin
        position = max(position, end)
    if position < size:
        yield position, size
