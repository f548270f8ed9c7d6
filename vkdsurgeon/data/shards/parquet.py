"""Parquet as the Hub writes it: a row per sample, the image as `{bytes, path}` or as plain bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vkdsurgeon.data.shards.shard import TAKEN, ShardSample
from vkdsurgeon.data.suites.parquet import IMAGE, damaged, open_parquet, suits
from vkdsurgeon.errors import UserError

_ROWS_AT_ONCE = 16
_USUAL = ("image", "images", "jpg", "jpeg", "png", "webp", "img")


class ParquetShard:
    """One parquet file; the number of rows is in its footer, and row groups without a wanted row are passed over.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.apart = path, 0

    def count(self) -> int:
        """Rows, also where a row's image is empty."""
        file = open_parquet(self.path)
        _image_column(file, self.path)
        return int(file.metadata.num_rows)

    def read(self, wanted: Sequence[int], *, described: bool = True) -> Iterator[ShardSample]:
        """The rows of these numbers, ascending."""
        file = open_parquet(self.path)
        schema, column = file.schema_arrow, _image_column(file, self.path)
        # A name that two columns share is no name.
        taken = [name for name in TAKEN if described and schema.names.count(name) == 1]
        start = 0
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if chosen := set(wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]):
                yield from self._group(file, group, start, chosen, column, taken)
            start = end

    def _group(
        self, file: Any, group: int, start: int, chosen: set[int], column: str, taken: Sequence[str]
    ) -> Iterator[ShardSample]:
        number = start
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[column, *taken])
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                picked = [index for index in range(batch.num_rows) if number + index in chosen]
                rows = batch.take(picked).to_pylist()
            except Exception as error:
                # Arrow's own errors, and those of text that is none.
                raise damaged(self.path, f"behind row {number}: {error}") from None
            for index, row in zip(picked, rows, strict=True):
                cell = row[column]
                content = cell.get("bytes") if isinstance(cell, dict) else cell
                name = cell.get("path") if isinstance(cell, dict) else None
                yield ShardSample(
                    content or b"",
                    Path(name).suffix.lower() if isinstance(name, str) else "",
                    {key: _plain(row[key]) for key in taken if row[key] is not None},
                    f"{self.path}, row {number + index}",
                )
            number += batch.num_rows


def _image_column(file: Any, path: Path) -> str:
    from pyarrow import types

    schema = file.schema_arrow
    binary = (types.is_binary, types.is_large_binary)
    found = [
        field.name
        for field in schema
        if schema.names.count(field.name) == 1
        and (
            (types.is_struct(field.type) and suits(field.type, IMAGE))
            or (field.name.lower() in _USUAL and any(test(field.type) for test in binary))
        )
    ]
    chosen = next((name for name in _USUAL if name in found), found[0] if found else None)
    if chosen is None:
        raise UserError(
            "no column holds images",
            where=path,
            value={field.name: str(field.type) for field in schema},
            expected=f"a column of type {IMAGE.words}, or of bytes and called {', '.join(_USUAL)}",
        )
    return chosen


def _plain(value: Any) -> Any:
    # Labels are often numbers.
    return str(value) if isinstance(value, int) else value
