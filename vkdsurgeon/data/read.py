"""Records from whatever the user has: JSON lines, LLaVA conversations, chat messages, a folder of images or clips."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from vkdsurgeon.data.formats import format_of, records_of
from vkdsurgeon.data.images import looks_like_an_image
from vkdsurgeon.data.modality import CLIP_SUFFIXES, NOUNS, Modality, modality_of, noun_of
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.rows import read_rows
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

log = logging.getLogger("vkdsurgeon.data")

_USUAL = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jfif", ".avif"}
_SELDOM = {".apng", ".jpe", ".mpo", ".dib", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".pcx", ".sgi", ".ico"}
IMAGE_SUFFIXES = frozenset(_USUAL | _SELDOM)
# Images that Pillow alone cannot open; passing over them would leave them unforgotten.
UNREADABLE_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".raw", ".dng", ".cr2", ".nef", ".arw", ".svg"})


Given: TypeAlias = Path | Sequence[Record]
"""A set as it is given: a file or folder to read, or the records themselves."""


def records_given(given: Given, *, role: str) -> list[Record]:
    """The records of a set, read unless they are records already.

    Args:
        given: A file or folder, as `read_records` takes it, or records.
        role: What the set is for, for messages.

    Raises:
        UserError: As `read_records`; or there is no record, or an image is not named by an absolute path.
    """
    if isinstance(given, (str, Path)):
        return read_records(Path(given), role=role)
    records = list(given)
    if not records:
        raise UserError(f"the {role} set holds no records", expected="at least one record")
    for record in records:
        if record.media is not None and not record.media.is_absolute():
            raise UserError(
                f"a record of the {role} set names its {noun_of(record.media)} by a relative path",
                where=record.source,
                value=record.media,
                expected=f"an absolute path: Record({modality_of(record.media)}=path.absolute(), ...)",
            )
    return records


def read_records(path: Path, *, role: str) -> list[Record]:
    """Read a set of records; the format is told by the content.

    Args:
        path: A JSON or JSON-lines file (flat rows, LLaVA conversations, chat messages), or a folder of images or clips.
        role: What the set is for (`forget`, `retain`, `text`), for messages.

    Returns:
        At least one record, in the order of the file; a folder in the order of its paths.

    Raises:
        UserError: Anything wrong with the file, naming file and line.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _read_folder(path, role)
    rows = read_rows(path, role=role)
    folder = path.absolute().parent
    shape = format_of(rows[0])
    records: list[Record] = []
    for row in rows:
        if format_of(row) != shape:
            raise UserError(
                f"formats are mixed: this record is {format_of(row)!r}, the first one {shape!r}",
                where=row.source,
                expected="one format per file",
            )
        records += records_of(row, folder)
    return records


def require_answers(records: Sequence[Record], *, role: str) -> None:
    """Refuse a set in which some record has no question or no answer, so that nothing can be measured on it.

    Raises:
        UserError: Naming the first such record.
    """
    for record in records:
        if record.question is None or record.answer is None:
            raise UserError(
                f"a record of the {role} set has no {'question' if record.question is None else 'answer'}",
                where=record.source,
                expected="a question and its answer in every record that is measured",
            )


def _refuse_what_would_be_missed(parent: Path, folders: list[str], names: list[str]) -> None:
    for name in folders:
        if (parent / name).is_symlink():
            raise UserError(
                "a symbolic link to a folder is not followed",
                where=parent / name,
                remedy="name the folder itself, or list its images in a JSONL file",
            )
    for name in sorted(names):
        if Path(name).suffix.lower() in UNREADABLE_SUFFIXES:
            raise UserError(
                "an image in a format that cannot be read",
                where=parent / name,
                expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
                remedy="convert it, or move it elsewhere",
            )


def _read_folder(folder: Path, role: str) -> list[Record]:
    found: list[Path] = []
    left: list[Path] = []
    root = folder.absolute()

    def refuse(error: OSError) -> None:
        raise machine_or(
            UserError(f"the folder of the {role} set cannot be read: {error.strerror}", where=error.filename), error
        )

    for parent, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        _refuse_what_would_be_missed(Path(parent), folders, names)
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(parent, name)
            if path.is_file():
                known = path.suffix.lower() in IMAGE_SUFFIXES or looks_like_an_image(path)
                (found if known else left).append(path)
    modality: Modality = "image"
    if not found and (clips := [path for path in left if modality_of(path) == "audio"]):
        modality, found, left = "audio", clips, [path for path in left if path not in set(clips)]
    if not found:
        raise UserError(
            f"the folder of the {role} set holds no images and no clips",
            where=folder,
            expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES | CLIP_SUFFIXES))}",
        )
    if left:
        noun = NOUNS[modality]
        log.warning("%s: %d files that are no %ss were passed over, such as %s", folder, len(left), noun, left[0].name)
    found.sort()
    loose = [path for path in found if path.parent == root]
    if loose and len(loose) < len(found):
        raise UserError(
            f"some {NOUNS[modality]}s are in sub-folders and some are not, so their subjects are unclear",
            where=loose[0],
            expected="one sub-folder per subject, or all of one subject without sub-folders",
        )
    return [
        Record(
            image=path if modality == "image" else None,
            audio=path if modality == "audio" else None,
            subject=None if loose else path.relative_to(root).parts[0],
            source=str(path),
        )
        for path in found
    ]
