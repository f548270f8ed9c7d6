"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vkdsurgeon.errors import UserError


def check_folder(path: Path) -> None:
    """Refuse, before any work, a place where no file can be written.

    Raises:
        UserError: The path is a folder, or its folder does not exist or is not writable.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise UserError("the output is a folder", where=path, expected="a file")
    if not folder.is_dir():
        raise UserError("the folder of the output does not exist", where=path)
    if not os.access(folder, os.W_OK):
        raise UserError("the folder of the output is not writable", where=path)


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8, durably, and give it its name when it is complete."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as any file of the user's.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
