"""WebDataset: a tar in which the files of one sample share their name up to the first dot and follow each other."""

from __future__ import annotations

import json
import tarfile
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


class TarShard:
    """One tar, compressed or not; of a plain one only the headers are read until an image is wanted.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        """Samples that have an image."""
        with self._opened() as archive:
            return sum(1 for _ in self._samples(archive, iter(())))

    def read(self, wanted: Sequence[int]) -> Iterator[ShardSample]:
        """The samples of these numbers, ascending."""
        last = max(wanted, default=-1)
        with self._opened() as archive:
            for number, sample in enumerate(self._samples(archive, iter(wanted))):
                if sample is not None:
                    yield sample
                if number >= last:
                    return

    def _samples(self, archive: tarfile.TarFile, wanted: Iterator[int]) -> Iterator[ShardSample | None]:
        """Every sample with an image: None, or what it holds where its number is wanted."""
        number, following = 0, next(wanted, None)
        for key, members in groupby(self._members(archive), lambda member: _split(member.name)[0]):
            source = f"{self.path}, sample {key!r}"
            image, contents = None, dict[str, bytes]()
            # Content is read before the next header: going back in a compressed tar is starting over.
            for member in members:
                suffix = _split(member.name)[1]
                # A sample may have several images, such as `input.png` and `target.png`: the first one counts.
                first = image is None and PurePosixPath(f"x{suffix}").suffix in IMAGE_SUFFIXES
                if first:
                    image = suffix
                if number == following and (first or suffix == _JSON):
                    contents[suffix] = self._content(archive, member, MAX_BYTES if first else _MAX_JSON, source)
            if image is None:
                continue
            if number == following:
                facts = _facts(contents[_JSON], source) if _JSON in contents else {}
                yield ShardSample(contents[image], PurePosixPath(f"x{image}").suffix, facts, source)
                following = next(wanted, None)
            else:
                yield None
            number += 1

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        while (member := archive.next()) is not None:
            # The library keeps every header that it has read, which grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            if member.isfile():
                yield member

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int, source: str) -> bytes:
        if member.size > most:
            raise UserError("a file is too large", where=source, value=member.size, expected=f"at most {most} bytes")
        file = archive.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) < member.size:
            raise self._damaged("it ends within a file")
        return content

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        try:
            with tarfile.open(self.path) as archive:
                yield archive
        except (tarfile.TarError, EOFError) as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise fault_of_machine(error, self.path) or self._damaged(error.strerror or str(error)) from None

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"the shard cannot be read: {what}", where=self.path, expected="a whole tar", remedy="fetch it again"
        )


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, dot, rest = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, f"{dot}{rest}".lower()


def _facts(content: bytes, source: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the JSON beside the image is broken: {error}", where=source, remedy="sample the images alone"
        ) from None
    return {key: found[key] for key in TAKEN if found.get(key) is not None} if isinstance(found, dict) else {}
