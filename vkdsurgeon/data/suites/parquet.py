"""Rows of a benchmark's parquet files: complete shards, checked columns, few rows in memory at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vkdsurgeon.errors import UserError

if TYPE_CHECKING:
    import pyarrow

# Rows carry images of a megabyte or so.
_ROWS_AT_ONCE = 16
# The Hub's converter cuts row groups far below this; one that declares more is broken or a decompression bomb.
MAX_ROW_GROUP = 4 << 30
_SHARD = re.compile(r"(?P<split>[A-Za-z_]+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.parquet")


@dataclass(frozen=True)
class Kind:
    """The required Arrow type of a column, as a test and in words."""

    name: str
    words: str


TEXT = Kind("text", "string")
LABEL = Kind("label", "string or integer")
TEXTS = Kind("texts", "list of string")
IMAGE = Kind("image", "struct<bytes: binary, path: string>")
IMAGES = Kind("images", "list of struct<bytes: binary, path: string>")
NESTED = Kind("nested", "nested, or a JSON string")


@dataclass(frozen=True)
class Row:
    """One row and where it stands.

    Attributes:
        values: Column -> Python value.
        source: `file, row N`, counted from 0.
        stem: Short name that no other row of the benchmark has.
    """

    values: dict[str, Any]
    source: str
    stem: str


def shards_of(root: Path, config: str) -> list[Path]:
    """The shards of one configuration, in order.

    Raises:
        UserError: The folder is missing or holds no shards, some of them are missing, or one is no parquet file.
    """
    folder = root / config
    if not folder.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
        raise UserError(
            f"there is no configuration {config!r}" if root.is_dir() else "there is no such directory",
            where=root,
            value=there,
            expected=f"a folder {config} with train-00000-of-00001.parquet, as in the published data set",
            remedy="`suite_root` names the directory that holds one folder per configuration",
        )
    found: dict[str, list[tuple[int, int, Path]]] = {}
    for path in sorted(folder.iterdir()):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match["split"], []).append((int(match["number"]), int(match["total"]), path))
    if not found or ("train" not in found and len(found) > 1):
        raise UserError(
            "there are no shards here" if not found else "there are several splits and none is called train",
            where=folder,
            value=sorted(path.name for path in folder.iterdir())[:8],
            expected="files such as train-00000-of-00001.parquet",
        )
    shards = sorted(found.get("train") or next(iter(found.values())))
    totals = {total for _, total, _ in shards}
    missing = sorted(set(range(max(totals))) - {number for number, _, _ in shards})
    if len(totals) > 1 or missing:
        raise UserError(
            "shards of several uploads are mixed" if len(totals) > 1 else "a shard is missing",
            where=folder,
            value=[path.name for _, _, path in shards],
            expected=f"all of 00000 to {max(totals) - 1:05}" + (f"; {missing[0]:05} is not here" if missing else ""),
            remedy="fetch the configuration again",
        )
    return [path for _, _, path in shards]


def columns_of(root: Path, config: str) -> list[str]:
    """Names of the columns of a configuration."""
    return [str(name) for name in open_parquet(shards_of(root, config)[0]).schema_arrow.names]


def read_rows(root: Path, config: str, columns: Mapping[str, Kind], *, nested: Sequence[str] = ()) -> Iterator[Row]:
    """Read rows, a few at a time; columns that are not asked for are not read.

    Args:
        root: The directory of the benchmark.
        config: Name of the configuration.
        columns: Column -> what it must hold.
        nested: Instead of a whole column, dotted parts of it to read, such as `image.path`.

    Raises:
        UserError: As in `shards_of`; or a column is missing or of another type, or a file is damaged.
    """
    for number, path in enumerate(shards_of(root, config)):
        file = open_parquet(path)
        schema = file.schema_arrow
        for name, kind in columns.items():
            if name not in schema.names:
                raise UserError(
                    f"the column {name!r} is missing",
                    where=path,
                    value=schema.names,
                    expected=f"{', '.join(columns)} ({name}: {kind.words})",
                )
            if not suits(schema.field(name).type, kind):
                raise UserError(
                    f"the column {name!r} has another type",
                    where=path,
                    value=str(schema.field(name).type),
                    expected=kind.words,
                )
        whole = [name for name in columns if not any(part.startswith(f"{name}.") for part in nested)]
        yield from _rows(file, path, [*whole, *nested], f"{config}-{number:05}")


def _rows(file: Any, path: Path, columns: list[str], stem: str) -> Iterator[Row]:
    index = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for values in batch.to_pylist():
                yield Row(values, f"{path}, row {index}", f"{stem}-{index:06}")
                index += 1
    except UserError:
        raise
    except Exception as error:
        # Arrow's own errors, and whatever Python makes of hostile text.
        raise damaged(path, f"at row {index} or behind it: {error}") from None


def open_parquet(path: Path) -> Any:
    """A parquet file, its footer read.

    Raises:
        UserError: It is no parquet file, a pointer to one, or declares a row group too large to be one of images.
    """
    import pyarrow.parquet

    try:
        with open(path, "rb") as raw:
            head = raw.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise UserError(
                "this is a pointer of Git LFS, not the file itself", where=path, remedy="run git lfs pull there"
            )
        file = pyarrow.parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
        sizes = [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]
    except UserError:
        raise
    except Exception as error:
        raise damaged(path, str(error)) from None
    if max(sizes, default=0) > MAX_ROW_GROUP:
        raise UserError(
            "a row group is too large", where=path, value=max(sizes), expected=f"at most {MAX_ROW_GROUP >> 30} GiB"
        )
    return file


def damaged(path: Path, what: str) -> UserError:
    """The error about a file that Arrow cannot read."""
    return UserError(
        f"the file cannot be read: {what.splitlines()[0] if what else 'damaged'}",
        where=path,
        expected="a whole parquet file",
        remedy="fetch it again",
    )


def suits(kind: pyarrow.DataType, wanted: Kind) -> bool:
    """Whether a column's Arrow type is of a kind."""
    from pyarrow import types

    def text(found: Any) -> bool:
        return bool(types.is_string(found) or types.is_large_string(found) or types.is_null(found))

    def listed(found: Any) -> bool:
        return bool(types.is_list(found) or types.is_large_list(found))

    def image(found: Any) -> bool:
        if types.is_null(found):
            return True
        names = {found.field(i).name: found.field(i).type for i in range(found.num_fields)} if _struct(found) else {}
        content = names.get("bytes")
        binary = content is not None and bool(types.is_binary(content) or types.is_large_binary(content))
        return binary and "path" in names

    def _struct(found: Any) -> bool:
        return bool(types.is_struct(found))

    if wanted is TEXT:
        return text(kind)
    if wanted is LABEL:
        return text(kind) or bool(types.is_integer(kind))
    if wanted is TEXTS:
        return listed(kind) and text(kind.value_type)
    if wanted is IMAGE:
        return image(kind)
    if wanted is IMAGES:
        return listed(kind) and image(kind.value_type)
    return text(kind) or listed(kind) or _struct(kind)
