"""Names beside other names, no longer than the file system allows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# What nearly every file system allows, in bytes.
_USUAL = 255


def fitting(place: Path, room: int) -> str:
    """The name of a path, shortened where something that is put before or behind it would make it too long.

    Args:
        place: The path; its folder says how long a name may be.
        room: Bytes that are put before and behind.

    Returns:
        The name itself, or its beginning with a digest of the whole, so that no two names become one.
    """
    most = _longest(place.parent) - room
    name = os.fsencode(place.name)
    if len(name) <= most:
        return place.name
    mark = hashlib.sha256(name).hexdigest()[:12]
    # Cut between characters: half of one is no name on every file system.
    beginning = name[: max(most - len(mark) - 1, 0)].decode("utf-8", "ignore")
    return f"{beginning}-{mark}"


def _longest(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return _USUAL
