"""Where a record's picture lies."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
_FILE = "file://"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


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
    if name.startswith(_FILE):
        name = unquote(name.removeprefix(_FILE))
    if not name.strip():
        raise UserError("the picture has no name", where=source, remedy="leave the key out where there is no picture")
    if name.startswith("data:"):
        raise UserError(
            "the picture lies in the record itself",
            where=source,
            value=name[:40],
            expected="the path of a file",
            remedy="write the pictures to files, and name those",
        )
    if _URL.match(name):
        raise UserError(
            "the picture is a URL; nothing is ever downloaded",
            where=source,
            value=name,
            expected="a path to a file",
            remedy="fetch the pictures first, and name the files",
        )
    # The same name has two spellings where it has accents, and a disk may hold the other one.
    for spelling in dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        if spelling.strip() and "\0" not in spelling:
            path = Path(os.path.abspath(folder / spelling))
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    return path
            except ValueError:
                continue
            except OSError as error:
                if error.errno not in _ABSENT:
                    told = UserError(f"the picture cannot be read: {error.strerror}", where=source, value=str(path))
                    raise machine_or(told, error) from error
    raise UserError(
        "the picture does not exist",
        where=source,
        value=name,
        expected=f"a file, relative to {folder} or absolute",
        remedy=_nearly(name, folder),
    )


def _nearly(name: str, folder: Path) -> str:
    if "\\" in name:
        return "write paths with / in place of \\"
    path = folder / name
    try:
        others = [other for other in os.listdir(path.parent) if other.casefold() == path.name.casefold()]
    except (OSError, ValueError):
        others = []
    return f"did you mean {others[0]!r}?" if others else "correct the path, or put the file there"
