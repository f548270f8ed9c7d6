"""WebDataset: a tar in which the files of one sample share their name up to the first dot and follow each other."""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from vkdsurgeon.data.read import IMAGE_SUFFIXES
from vkdsurgeon.data.shards.shard import TAKEN, ShardSample
from vkdsurgeon.data.suites.images import MAX_BYTES
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import fault_of_machine

_JSON, _MAX_JSON = ".json", 16 << 20
# Long names and extended headers are read as a whole, whatever length they claim.
_MAX_HEADER = 1 << 20
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class TarShard:
    """One tar, compressed or not; of a plain one only the headers are read until an image is wanted.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.apart = path, 0

    def count(self) -> int:
        """Samples that have an image."""
        self.apart = 0
        with self._opened() as archive:
            return sum(1 for _ in self._samples(archive, iter(()), described=False))

    def read(self, wanted: Sequence[int], *, described: bool = True) -> Iterator[ShardSample]:
        """The samples of these numbers, ascending."""
        last = max(wanted, default=-1)
        with self._opened() as archive:
            for number, sample in enumerate(self._samples(archive, iter(wanted), described=described)):
                if sample is not None:
                    yield sample
                if number >= last:
                    return

    def _samples(
        self, archive: tarfile.TarFile, wanted: Iterator[int], *, described: bool
    ) -> Iterator[ShardSample | None]:
        """Every sample with an image: None, or what it holds where its number is wanted."""
        number, following = 0, next(wanted, None)
        for key, members in groupby(self._members(archive), lambda member: _split(member.name)[0]):
            image, contents, tells = None, dict[str, bytes](), False
            # Content is read before the next header: going back in a compressed tar is starting over.
            for member in members:
                suffix = _split(member.name)[1]
                # A sample may have several images, such as `input.png` and `target.png`: the first one counts.
                first = image is None and PurePosixPath(f"x{suffix}").suffix in IMAGE_SUFFIXES
                if first:
                    image = suffix
                tells = tells or suffix == _JSON
                if number == following and (first or (described and suffix == _JSON)):
                    contents[suffix] = self._content(archive, member, MAX_BYTES if first else _MAX_JSON)
            if image is None:
                self.apart += tells
                continue
            if number == following:
                facts, fault = _facts(contents[_JSON]) if _JSON in contents else ({}, None)
                source = f"{self.path}, sample {key!r}"
                yield ShardSample(contents[image], PurePosixPath(f"x{image}").suffix, facts, source, fault)
                following = next(wanted, None)
            else:
                yield None
            number += 1

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        seen: list[bytes] = []
        archive.tarinfo = _noting(seen)
        if (first := archive.firstmember) is not None:  # type: ignore[attr-defined]
            _check(first)
        while (member := archive.next()) is not None:
            # The library keeps every header that it has read, which grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            _check(member)
            if member.isfile():
                yield member
        # Behind the first file the library takes a header that it cannot read for the end.
        if seen and (len(seen[-1]) < tarfile.BLOCKSIZE or any(seen[-1])):
            raise self._damaged(f"it breaks off, or a header is damaged, at byte {archive.offset}")

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
        """What a file holds; nothing where it is larger than such a file can be."""
        if member.size > most:
            return b""
        file = archive.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) < member.size:
            raise self._damaged("it ends within a file")
        return content

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        try:
            with tarfile.open(self.path, tarinfo=_noting([])) as archive:
                yield archive
        except UserError:
            raise
        except tarfile.ReadError as error:
            # What the library says names every format that it tried.
            said = str(error)
            raise self._damaged("it is no tar" if "\n" in said or "opened successfully" in said else said) from None
        except (tarfile.TarError, EOFError, ValueError, ArithmeticError, zlib.error, lzma.LZMAError) as error:
            raise self._damaged(str(error)) from None
        except FileNotFoundError:
            raise UserError("the shard is no longer there", where=self.path) from None
        except OSError as error:
            raise fault_of_machine(error, self.path) or self._damaged(error.strerror or str(error)) from None

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"the shard cannot be read: {what}", where=self.path, expected="a whole tar", remedy="fetch it again"
        )


def _noting(seen: list[bytes]) -> type[tarfile.TarInfo]:
    """A kind of header that keeps the last block that was read as one, and refuses what would fill memory."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            seen[:] = [bytes(buf)]
            found = super().frombuf(buf, encoding, errors)
            if found.size < 0 or (found.type in _HEADERS and found.size > _MAX_HEADER):
                raise tarfile.ReadError(f"a header says that it is followed by {found.size} bytes")
            return found

    return Header


def _check(member: tarfile.TarInfo) -> None:
    if member.size < 0 or member.sparse is not None:
        raise tarfile.ReadError(f"{member.name!r} is stored with holes, or says that it has {member.size} bytes")


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, f"{dot}{rest}".lower()


def _facts(content: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}, "its .json is empty, too large or broken"
    if not isinstance(found, dict):
        return {}, "its .json holds no object"
    return {key: found[key] for key in TAKEN if found.get(key) is not None}, None
