"""Images out of parquet cells, as files that the rest of the tool reads like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.suites.parquet import Row
from vkdsurgeon.errors import UserError

MAX_BYTES = 256 << 20


class ImageFolder:
    """Writes images into a folder that its owner deletes.

    Args:
        folder: An existing, empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, cell: Any, row: Row, column: str, number: int = 0) -> Path:
        """Write one image as it is, after decoding it once.

        Args:
            cell: `{"bytes", "path"}` as the Hub's files hold it.
            row: Where it stands.
            column: Its column, for messages.
            number: Which of several images in the cell.

        Returns:
            Path of the file; its name tells configuration, shard and row, and nothing of the subject.

        Raises:
            UserError: There is no content, or it is no image that can be decoded within bounds.
        """
        where = f"{row.source}, column {column!r}"
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            raise UserError(
                "there is no image",
                where=where,
                expected="the bytes of an image in the file itself; nothing is ever downloaded",
            )
        if len(content) > MAX_BYTES:
            raise UserError(
                "the image is too large", where=where, value=len(content), expected=f"at most {MAX_BYTES} bytes"
            )
        path = self._folder / f"{row.stem}-{number}"
        path.write_bytes(content)
        # Now, because a broken image is cheaper to hear of before hours of work than in between.
        open_image(path, where=where)
        return path
