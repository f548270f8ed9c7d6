"""The bytes of a file that a record names, whatever is in it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from vkdsurgeon.errors import SurgeryError, UserError

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins, which stands where the file itself was not fetched."""


def no_content(place: str, noun: str) -> UserError:
    """The error where a file begins as a `POINTER`."""
    return UserError(f"this is a Git LFS pointer, not the {noun} itself", where=place, remedy="fetch it: git lfs pull")


def same_as_before(path: Path, place: str, digest: str, noun: str) -> io.BytesIO:
    """A file's bytes, which are those that the set was read with.

    Args:
        path: The file.
        place: What messages name it.
        digest: SHA-256 that its bytes had, in hex.
        noun: What it is: `image` or `clip`.

    Raises:
        SurgeryError: It cannot be read any more, or was changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SurgeryError(f"{place}: the {noun} can no longer be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise SurgeryError(
            f"{place}: the {noun} changed while the run was under way; nothing was written. Start again with the set "
            "as it is, or put it back as it was"
        )
    return io.BytesIO(content)
