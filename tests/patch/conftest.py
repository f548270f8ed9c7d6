"""A base, what surgery makes of it, and the patch between them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.patch.export import export_patch


@dataclass(frozen=True)
class Case:
    """Paths of a base, two generations of what was made of it, and their patches. Read-only for tests."""

    base: Path
    patched: Path
    again: Path
    patch: Path
    second: Path


def operate(root: Path, out: Path, record: str, seed: int, share: float = 0.2) -> None:
    """Change a share of every visual tensor, and add a record, as `unlearn` does."""
    inventory = take_inventory(root)
    split = split_checkpoint(inventory)
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name in (*split.tower, *split.projector):
        value = read_tensor(inventory, name).clone()
        mask = torch.rand(value.shape, generator=generator) < share
        value[mask] += 0.5
        changes[name] = value
    write_patched(inventory, changes, out, extra_files={record: b'{"schema": "any"}\n'})


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A LLaVA in bfloat16 and three shards, patched twice in a row."""
    folder = tmp_path_factory.mktemp("patch")
    base = build_checkpoint("llava", folder / "base", dtype=torch.bfloat16, shards=3)
    (base / "README.md").write_text("# A model\n")
    operate(base, folder / "patched", "vkdsurgeon.json", 1)
    operate(folder / "patched", folder / "again", "vkdsurgeon.2.json", 2)
    export_patch(base, folder / "patched", folder / "first.safetensors")
    export_patch(folder / "patched", folder / "again", folder / "second.safetensors", compression="zstd")
    return Case(base, folder / "patched", folder / "again", folder / "first.safetensors", folder / "second.safetensors")


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """The base, to be damaged or patched where it lies."""
    return Path(shutil.copytree(case.base, tmp_path / "copy"))
