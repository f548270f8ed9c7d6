"""Where a record's image or clip lies."""

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


def media_path(name: str, folder: Path, source: str, noun: str = "image") -> Path:
    """Resolve an image's or clip's name as written in a record.

    Args:
        name: A path, relative to `folder` or absolute.
        folder: The folder of the file that holds the record.
        source: `file:line`, for messages.
        noun: What it is called in messages.

    Returns:
        The absolute path of an existing file.

    Raises:
        UserError: The name is a URL, or the file does not exist.
    """
    if name.startswith(_FILE):
        name = unquote(name.removeprefix(_FILE))
    if not name.strip():
        raise UserError(f"the {noun} has no name", where=source, remedy=f"leave the key out where there is no {noun}")
    if name.startswith("data:"):
        raise UserError(
            f"the {noun} lies in the record itself",
            where=source,
            value=name[:40],
            expected="the path of a file",
            remedy=f"write the {noun}s to files, and name those",
        )
    if _URL.match(name):
        raise UserError(
            f"the {noun} is a URL; nothing is ever downloaded",
            where=source,
            value=name,
            expected="a path to a file",
            remedy=f"fetch the {noun}s first, and name the files",
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
                    told = UserError(f"the {noun} cannot be read: {error.strerror}", where=source, value=str(path))
                    raise machine_or(told, error) from error
    raise UserError(
        f"the {noun} does not exist",
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
