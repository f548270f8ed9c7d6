"""Which files hold the tensors: the index and the headers of the shards agree, or it is said where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vkdsurgeon.checkpoint.header import TensorEntry, read_header
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def shard_names(root: Path, names: set[str]) -> list[str]:
    """The files that hold tensors, sorted.

    Args:
        root: The checkpoint.
        names: Every file of it.

    Raises:
        UserError: The index is no index, or a shard that it names is missing or lies elsewhere.
    """
    if SINGLE not in names:
        index = _weight_map(root)
        for shard in sorted(set(index.values())):
            if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
                raise UserError(
                    "the index names something that is no shard of this directory",
                    where=root / INDEX,
                    value=shard,
                    expected="the name of a .safetensors file beside the index",
                )
            if shard not in names:
                raise UserError(
                    "a shard that the index names is missing",
                    where=root / shard,
                    expected=f"{len(set(index.values()))} shards",
                    remedy="download or export the checkpoint again",
                )
        return sorted(set(index.values()))
    if INDEX in names and set(_weight_map(root).values()) != {SINGLE}:
        raise UserError(
            f"both {SINGLE} and an index of other shards: readers disagree on which one counts",
            where=root,
            expected="one of the two",
            remedy="remove the one that is stale",
        )
    return [SINGLE]


def _weight_map(root: Path) -> dict[str, str]:
    index = read_json(root / INDEX)
    weight_map = index.get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise UserError(
            "the index has no valid weight_map",
            where=root / INDEX,
            value=weight_map,
            expected='"weight_map": {"tensor name": "shard name", ...}',
        )
    if not isinstance(index.get("metadata"), dict):
        raise UserError(
            "the index has no metadata, without which transformers does not load a model",
            where=root / INDEX,
            value=index.get("metadata"),
            expected='"metadata": {...}, which may be empty',
            remedy='add "metadata": {} beside "weight_map"',
        )
    return weight_map


def read_headers(root: Path, shards: list[str]) -> dict[str, TensorEntry]:
    """Every tensor of the shards by its name on disk; headers alone are read.

    Raises:
        UserError: A shard is damaged, a tensor lies in two of them, or there is none.
    """
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in read_header(root / shard, shard):
            if entry.name in tensors:
                raise UserError(
                    "a tensor lies in two shards",
                    where=f"{root / shard}: tensor {entry.name}",
                    value=tensors[entry.name].file,
                    expected="each tensor once",
                    remedy="remove the stale shard and rebuild the index",
                )
            tensors[entry.name] = entry
    if not tensors:
        raise UserError("the weight files hold no tensor", where=root)
    return tensors


def beyond_each_other(root: Path, tensors: dict[str, TensorEntry]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors that the index does not name, and names of it that are no tensors.

    Raises:
        UserError: A tensor lies in another shard than the index says.
    """
    index = _weight_map(root)
    for name, shard in index.items():
        if name in tensors and tensors[name].file != shard:
            raise UserError(
                f"the index promises tensor {name}, which this shard does not hold",
                where=root / shard,
                value=tensors[name].file,
                remedy="rebuild the index or download the checkpoint again",
            )
    return tuple(name for name in tensors if name not in index), tuple(name for name in index if name not in tensors)


def index_warnings(unnamed: tuple[str, ...], absent: tuple[str, ...]) -> Iterator[str]:
    """What to tell of `beyond_each_other`."""
    if unnamed:
        yield (
            f"{len(unnamed)} tensors lie in the shards and not in {INDEX}, such as {unnamed[0]}: transformers loads "
            "them, other readers may not; rebuild the index"
        )
    if absent:
        yield f"{INDEX} names {len(absent)} tensors that no shard holds, such as {absent[0]}; rebuild the index"
