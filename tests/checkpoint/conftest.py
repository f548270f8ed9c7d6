"""Checkpoints that tests may damage, and tools to do it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.header import LENGTH_BYTES


class Families(dict[str, Path]):
    """Checkpoints of the families in float32, one file each, built when they are first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, family: str) -> Path:
        self[family] = build_checkpoint(family, self.root / family)
        return self[family]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family in float32, one file. Read-only for tests."""
    return Families(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA in bfloat16 and several shards. Read-only for tests."""
    return build_checkpoint("llava", tmp_path_factory.mktemp("sharded") / "llava", dtype=torch.bfloat16, shards=3)


@pytest.fixture
def single(pristine: dict[str, Path], tmp_path: Path) -> Path:
    """A LLaVA in one file, to be damaged."""
    return Path(shutil.copytree(pristine["llava"], tmp_path / "llava"))


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    """A LLaVA in several shards, to be damaged."""
    return Path(shutil.copytree(sharded, tmp_path / "sharded"))


def random_image(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    """A random image, width x height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a safetensors file's tensors."""
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a safetensors file's header and leave its data as it is."""
    raw = path.read_bytes()
    end = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
    header = json.loads(raw[LENGTH_BYTES:end])
    edit(header)
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(LENGTH_BYTES, "little") + written + raw[end:])


def files_of(root: Path) -> dict[str, bytes]:
    """Path -> content of every file below a directory."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    """Names in a directory, sorted."""
    return sorted(path.name for path in folder.iterdir())
