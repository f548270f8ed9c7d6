"""Where a record's picture lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vkdsurgeon.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://|data:")


def picture_path(name: str, folder: Path, source: str) -> Path:
    """Resolve a picture's name as written in a record.

    Args:
        name: A path, relative to `folder` or absolute.
        folder: The folder of the file that holds the record.
        source: `file:line`, for messages.

    Returns:
        The absolute path of an existing file.

    Raises:
        UserError: It is a URL, or no such file exists.
    """
    if _URL.match(name):
        raise UserError(
            "the picture is a URL; nothing is ever downloaded", where=source, value=name, expected="a path to a file"
        )
    path = Path(os.path.abspath(folder / name)) if "\0" not in name else None
    try:
        found = name.strip() != "" and path is not None and path.is_file()
    except OSError:
        found = False
    if not found or path is None:
        raise UserError(
            "the picture does not exist", where=source, value=name, expected=f"a file, relative to {folder} or absolute"
        )
    return path
