"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import sync
from vkdsurgeon.files.library_errors import machine_or
from vkdsurgeon.files.names import fitting

_PART = ".part"
# Characters that mkstemp puts between prefix and suffix.
_RANDOM = 8


def check_folder(path: Path) -> None:
    """Refuse, before any work, a place where no file can be written.

    Raises:
        UserError: The path is a folder, or its folder does not exist or is not writable, or the name is too long.
    """
    folder = path.absolute().parent
    try:
        # Asking for a name that is too long is an error of its own.
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        told = UserError(
            "the output cannot have this name", where=path, value=error.strerror, remedy="name another file"
        )
        raise machine_or(told, error) from error
    if path.is_dir():
        raise UserError("the output is a folder", where=path, expected="a file")
    if not folder.is_dir():
        raise UserError("the folder of the output does not exist", where=path)
    if not os.access(folder, os.W_OK):
        raise UserError("the folder of the output is not writable", where=path)


def write_whole(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write a file durably, and give it its name when it is complete.

    Args:
        path: The file.
        content: Bytes, or a text, which is written in UTF-8.
        private: Let nobody but its owner read it.
    """
    folder = path.absolute().parent
    prefix = f".{fitting(path.absolute(), 2 + _RANDOM + len(_PART))}."
    mode = 0o600 if private else _mode_for(path)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=_PART)
    try:
        # A name that is no text is spelt out, which JSON reads as what it was.
        data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk does not say what was written.
            error.filename = str(path)
        raise
    # The file is there; whether its name survives a power cut is no reason to fail.
    with suppress(OSError):
        sync(folder)


def _mode_for(path: Path) -> int:
    """The permissions of the file that is replaced, else those that any new file of the user's gets."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
