"""The inventory: complete checkpoints are listed, everything else is refused with a file, a value and a way out."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from tests.checkpoint.conftest import edit_json, edit_tensors
from vkdsurgeon.checkpoint import shard_index
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_bytes, read_tensor
from vkdsurgeon.checkpoint.shard_index import INDEX, SINGLE
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.errors import UserError


def shard(root: Path, number: int) -> Path:
    return sorted(root.glob("model-*.safetensors"))[number]


def test_lists_every_file_and_tensor(sharded: Path) -> None:
    inventory = take_inventory(sharded)
    assert {file.path for file in inventory.files} == {path.name for path in sharded.iterdir()}
    assert inventory.size == sum(path.stat().st_size for path in sharded.iterdir())
    expected = {name: value for path in sharded.glob("*.safetensors") for name, value in load_file(path).items()}
    assert inventory.tensors.keys() == expected.keys()
    assert len(inventory.shards) > 1
    assert not inventory.warnings
    for name, value in expected.items():
        assert torch.equal(read_tensor(inventory, name), value)
        assert bytes(read_bytes(inventory, name)) == value.view(torch.uint8).numpy().tobytes()


def refused(root: Path, message: str) -> UserError:
    with pytest.raises(UserError, match=message) as caught:
        take_inventory(root)
    assert caught.value.where
    return caught.value


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0")


def swapped(names: dict[str, str]) -> dict[str, str]:
    """The same tensors, each in the shard of another."""
    return dict(zip(names, reversed(names.values()), strict=True))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda root: shard(root, 1).unlink(), "that the index names is missing"),
    "truncated shard": (lambda root: truncate(shard(root, 1)), "outside the file"),
    "trailing bytes": (lambda root: append(shard(root, 0)), "goes on after"),
    "empty shard": (lambda root: shard(root, 0).write_bytes(b""), "too short"),
    "index entry of another shard": (
        lambda root: edit_json(root / INDEX, lambda index: index["weight_map"].update(swapped(index["weight_map"]))),
        "promises tensor",
    ),
    "tensor in two shards": (
        lambda root: edit_tensors(
            shard(root, 0), lambda tensors: tensors.update({next(iter(load_file(shard(root, 1)))): torch.ones(1)})
        ),
        "lies in two shards",
    ),
    "index of another directory": (
        lambda root: edit_json(root / INDEX, lambda index: index["weight_map"].update(x="../model.safetensors")),
        "no shard of this directory",
    ),
    "empty index": (lambda root: (root / INDEX).write_text(""), "not valid JSON"),
    "index without map": (lambda root: (root / INDEX).write_text("{}"), "no valid weight_map"),
    "index without metadata": (
        lambda root: edit_json(root / INDEX, lambda index: index.pop("metadata")),
        "the index has no metadata",
    ),
    "index with odd map": (lambda root: (root / INDEX).write_text('{"weight_map": {"a": 1}}'), "no valid weight_map"),
    "single file beside the index": (
        lambda root: shutil.copy(shard(root, 0), root / SINGLE), "readers disagree",
    ),
    "no config": (lambda root: (root / "config.json").unlink(), "no such file"),
    "adapter": (lambda root: (root / "adapter_config.json").write_text("{}"), "PEFT adapter"),
    "dangling link": (lambda root: (root / "note").symlink_to("nowhere"), "leads nowhere"),
    "link to a directory": (lambda root: (root / "note").symlink_to(root.parent), "link to a directory, which is not"),
    "fifo": (lambda root: os.mkfifo(root / "pipe"), "neither a file nor a directory"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_damage(shards: Path, damage: str) -> None:
    apply, message = DAMAGES[damage]
    apply(shards)
    refused(shards, message)


def _unname(root: Path, part: str) -> str:
    """Take the first tensor of a part out of the index."""
    name = next(name for name in take_inventory(root).tensors if part in name)
    edit_json(root / INDEX, lambda index: index["weight_map"].pop(name))
    return name


def test_an_index_that_lags_behind_is_told(shards: Path) -> None:
    """transformers loads what the shards hold, whatever the index says of it."""
    name = _unname(shards, "language_model")
    edit_json(shards / INDEX, lambda index: index["weight_map"].update(ghost=shard(shards, 0).name))
    whole = AutoModelForMultimodalLM.from_pretrained(shards, dtype="auto")
    found = take_inventory(shards)
    assert torch.equal(whole.state_dict()[split_checkpoint(found).language_targets[name]], read_tensor(found, name))
    assert found.unnamed == (name,)
    first, second = found.warnings
    assert name in first
    assert "ghost" in second


def test_an_index_without_a_visual_tensor_is_refused(shards: Path) -> None:
    name = _unname(shards, "vision")
    with pytest.raises(UserError, match="which the index does not name") as caught:
        split_checkpoint(take_inventory(shards))
    assert name in str(caught.value)


def test_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such directory")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "not a directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no such file")
    (tmp_path / "empty" / "config.json").write_text("{}")
    refused(tmp_path / "empty", "no weights found")


def test_unreadable_files_are_named(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, file: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shard_index, "read_header", refuse)
    assert SINGLE in str(refused(single, "no permission to read"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_refuses_pickles(single: Path, name: str) -> None:
    (single / SINGLE).rename(single / name)
    assert "safetensors" in str(refused(single, "pickles"))


@pytest.mark.parametrize(
    "name",
    ["consolidated.safetensors", "pytorch_model.bin", "model-q4.gguf", "original/params.json", "sub/x.safetensors"],
)
def test_warns_of_stale_duplicates(single: Path, name: str) -> None:
    (single / name).parent.mkdir(exist_ok=True)
    (single / name).write_bytes(b"1234")
    (warning,) = take_inventory(single).warnings
    assert name in warning
    assert "forgotten" in warning


def test_follows_the_links_of_a_hub_cache(single: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in single.iterdir():
        (snapshot / path.name).symlink_to(path)
    linked, plain = take_inventory(snapshot), take_inventory(single)
    assert linked.tensors == plain.tensors
    assert linked.files == plain.files


def test_an_index_of_the_single_file_is_fine(single: Path) -> None:
    names = take_inventory(single).tensors
    (single / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, SINGLE)}))
    assert take_inventory(single).tensors.keys() == names.keys()
