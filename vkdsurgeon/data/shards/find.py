"""The shards among what was named on a command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from vkdsurgeon.data.shards.parquet import ParquetShard
from vkdsurgeon.data.shards.shard import Shard
from vkdsurgeon.data.shards.tar import TarShard
from vkdsurgeon.errors import UserError

_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_KINDS: dict[str, Callable[[Path], Shard]] = {".parquet": ParquetShard, **dict.fromkeys(_TARS, TarShard)}


def shards_in(paths: Iterable[Path]) -> list[Shard]:
    """The shards that were named: files as they are given, folders by their tars and parquet files in order of name.

    Raises:
        UserError: Something is neither a tar nor a parquet file, a folder holds none, or one is named twice.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            # Hidden files are what other programs leave behind.
            inside = sorted(
                each
                for each in path.rglob("*")
                if _kind_of(each) is not None and each.is_file() and not each.name.startswith(".")
            )
            if not inside:
                raise UserError("the folder holds no shards", where=path, expected="files ending in .tar or .parquet")
            found += inside
        elif not path.exists():
            raise UserError("there is no such file or folder", where=path)
        else:
            found.append(path)
    often = Counter(path.resolve() for path in found)
    if twice := [path for path, times in often.items() if times > 1]:
        raise UserError("a shard is named twice", where=twice[0], expected="each shard once")
    shards: list[Shard] = []
    for path in found:
        kind = _kind_of(path)
        if kind is None or not path.is_file():
            raise UserError(
                "this is no shard of images",
                where=path,
                expected=f"a file ending in {', '.join(_KINDS)}, or a folder of such files",
            )
        shards.append(kind(path))
    return shards


def _kind_of(path: Path) -> Callable[[Path], Shard] | None:
    return next((kind for ending, kind in _KINDS.items() if path.name.lower().endswith(ending)), None)
