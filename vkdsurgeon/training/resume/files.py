"""A journal on disk: one JSON document and the safetensors files it names, replaced as a whole, never pickled.

Files of tensors are written under new names, made durable, and only then named by the document, which replaces its
predecessor in one step. So whatever moment the process ends at, the document names files that are whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest, sync
from vkdsurgeon.files.directories import is_at, take
from vkdsurgeon.files.library_errors import machine_or

DOCUMENT = "journal.json"
_FAMILY = "vkdsurgeon/journal/"
SCHEMA = f"{_FAMILY}1"
_PART = ".part"
# Whether the directory was made for the journal, and goes with it.
MADE = "made"
# Passes and roles by name: whatever else is called something like that belongs to somebody.
_OURS = re.compile(r"(journal\.json|(visual|decoder)-(mask|state|best)-[0-9.]+\.safetensors)(\.part)?")
# How every document begins, so that half of one is known again.
_HEAD = f'{{\n "schema": "{_FAMILY}'.encode()


class Folder:
    """The directory of a journal.

    Args:
        path: The directory; made when something is written.
        reserve: Bytes of its disk that it must leave free, for whoever needs them more.
        disposable: The name was chosen here, so that the directory goes with the journal even where it was there.

    Attributes:
        made: Whether the directory goes with the journal: it was made for it.
    """

    def __init__(self, path: Path, reserve: int = 0, *, disposable: bool = False) -> None:
        self.path = path
        self.made = disposable
        self._reserve = reserve
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a journal to read."""
        return (self.path / DOCUMENT).exists()

    def check(self, apart_from: Mapping[str, Path]) -> None:
        """Refuse a place where a journal cannot be, or where something else is.

        Args:
            apart_from: Directories that a journal must not be in, by what they are.

        Raises:
            UserError: Not a directory, one of another kind, or no place to make it in.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UserError("the journal is not a directory", where=self.path, remedy="name another one with `journal`")
        if self.path.is_dir() and (foreign := self._foreign()):
            raise UserError(
                "this directory is not a journal",
                where=self.path,
                value=foreign,
                expected="a new or empty directory, or the journal of a run",
                remedy="name another one with `journal`",
            )
        place = self.path.resolve()
        for what, other in apart_from.items():
            if place == other.resolve() or other.resolve() in place.parents:
                raise UserError(f"the journal lies inside the {what}", where=self.path, remedy="name another directory")
        if not place.parent.is_dir():
            raise UserError("the journal's parent directory does not exist", where=place.parent, remedy="create it")
        if not os.access(self.path if self.path.is_dir() else place.parent, os.W_OK | os.X_OK):
            raise UserError("no permission to write the journal", where=self.path, remedy="choose another directory")

    def lock(self) -> None:
        """Make the directory, and keep other runs away until this process ends.

        Raises:
            UserError: Another run holds it.
            OSError: The directory cannot be made or opened.
        """
        while self._lock is None:
            # Weights that are still unlearning are nobody else's business.
            try:
                self.path.mkdir(mode=0o700)
                self.made = True
            except FileExistsError:
                pass
            try:
                held = take(self.path)
            except FileNotFoundError:
                continue
            except BlockingIOError:
                raise UserError(
                    "another run is writing this journal",
                    where=self.path,
                    remedy="wait for it, or name another directory with `journal`",
                ) from None
            # Whoever had it may have removed it in between, and what is locked now is no longer there.
            if is_at(held, self.path):
                self._lock = held
            else:
                os.close(held)

    def read(self) -> dict[str, Any]:
        """The document, after every file it names was compared with its digest.

        Raises:
            UserError: Anything is missing, altered or of another version.
        """
        path = self.path / DOCUMENT
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            schema = document["schema"]
            if schema != SCHEMA:
                raise UserError(
                    "a journal of another version",
                    where=path,
                    value=schema,
                    expected=SCHEMA,
                    remedy="resume with the version that wrote it, or remove the directory and start again",
                )
            if document.pop("digest") != _digest_of(document):
                raise damaged(path, "its digest does not fit its content")
            for entry in _entries(document):
                file = self.path / str(entry["file"])
                if digest(file) != entry["digest"]:
                    raise damaged(file, "its digest does not fit its content")
        except OSError as error:
            raise machine_or(damaged(error.filename or path, error.strerror or "it cannot be read"), error) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise damaged(path, f"{type(error).__name__}: {error}") from error
        assert isinstance(document, dict)
        return document

    def tensors(self, entry: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of a file that the document names, on the CPU."""
        found: dict[str, Tensor] = load_file(self.path / entry["file"])
        return found

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Write a file of tensors, which nobody reads before a document names it.

        Args:
            name: Its name without an ending, `pass-role-number`.
            tensors: On the CPU.

        Returns:
            What the document says of it.

        Raises:
            OSError: It cannot be written, or would take what the disk is to keep free.
            safetensors.SafetensorError: Likewise.
        """
        if not _OURS.fullmatch(f"{name}.safetensors"):
            raise ValueError(f"{name!r} is no name of a pass, a role and a number that the journal knows as its own")
        self.lock()
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._reserve and shutil.disk_usage(self.path).free - size < self._reserve:
            raise OSError(errno.ENOSPC, f"{size} bytes would take the room that the output needs", str(self.path))
        path, part = self.path / f"{name}.safetensors", self.path / f"{name}.safetensors{_PART}"
        try:
            save_file(dict(tensors), part)
            sync(part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return {"file": path.name, "digest": digest(path)}

    def commit(self, document: Mapping[str, Any]) -> None:
        """Replace the document, durably, and remove the files that it no longer names.

        Raises:
            OSError: It cannot be written.
        """
        self.lock()
        path, part = self.path / DOCUMENT, self.path / (DOCUMENT + _PART)
        body = {"schema": SCHEMA, **document}
        try:
            with part.open("w", encoding="utf-8") as file:
                json.dump({**body, "digest": _digest_of(body)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            sync(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self.tidy(document)

    def tidy(self, document: Mapping[str, Any]) -> None:
        """Remove the files of tensors that a document does not name, such as those of a save that failed."""
        self._remove_but({DOCUMENT, *(entry["file"] for entry in _entries(document))})

    def holds(self, entry: Mapping[str, str]) -> bool:
        """Whether a file that a document names is still there."""
        return (self.path / entry["file"]).is_file()

    def remove(self) -> None:
        """Remove the journal, and its directory where it was made for it and nothing else lies in it."""
        if self._lock is not None and self.exists:
            # A kill in between must leave a journal of nothing, neither a damaged one nor files without any.
            with suppress(OSError):
                self.commit({"inputs": {}, "passes": {}, MADE: self.made})
        self._remove_but(frozenset())
        if self._lock is not None and self.made and self.path.is_dir() and not os.listdir(self.path):
            self.path.rmdir()

    def close(self) -> None:
        """Let other runs have it."""
        if self._lock is not None:
            if not self.exists:
                # Nothing was saved; what is left is an empty directory.
                with suppress(OSError):
                    self.remove()
            os.close(self._lock)
            self._lock = None

    def _remove_but(self, kept: Set[str]) -> None:
        # Without the lock the files may be those of a run that is alive.
        if self._lock is None or not is_at(self._lock, self.path):
            return
        # The document goes last: it says what the others are.
        ours = sorted((name for name in os.listdir(self.path) if _OURS.fullmatch(name)), key=lambda n: n == DOCUMENT)
        for name in ours:
            if name not in kept:
                (self.path / name).unlink(missing_ok=True)

    def _foreign(self) -> str | None:
        """Something in the directory that says it is no journal of ours, if there is anything."""
        names = sorted(os.listdir(self.path))
        if DOCUMENT in names:
            return None if _begins_like_ours(self.path / DOCUMENT) else DOCUMENT
        # The document is the first thing that is written, so a killed run leaves its beginning alone.
        part = DOCUMENT + _PART
        ours = {part} if part in names and _begins_like_ours(self.path / part) else set()
        return next((name for name in names if name not in ours), None)


def _begins_like_ours(path: Path) -> bool:
    """Whether a file begins as a document does, or ends within that beginning."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_HEAD))
    except OSError:
        return False
    return _HEAD.startswith(start)


def damaged(where: object, how: str) -> UserError:
    """The error for a journal that cannot be read back."""
    return UserError(
        f"the journal is damaged: {how}",
        where=where,
        remedy="remove the journal and start again; the checkpoint was not touched",
    )


def _entries(document: Mapping[str, Any]) -> list[dict[str, str]]:
    return [entry for kept in document["passes"].values() for entry in kept["files"].values()]


def _digest_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
