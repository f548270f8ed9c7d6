"""The same for what people write and hand on: recipes, release files, results, patches, replay files and journals."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save

import vkdsurgeon
from tests.checkpoint.conftest import files_of
from tests.families import build_checkpoint
from tests.hostile.campaign import COUNTS, altered, altered_bytes, campaign
from tests.patch.conftest import operate
from tests.report import documents
from vkdsurgeon.checkpoint.header import LENGTH_BYTES
from vkdsurgeon.config.release import load_release
from vkdsurgeon.patch.apply import apply_patches
from vkdsurgeon.patch.state import verify_patches
from vkdsurgeon.results.read import read_source
from vkdsurgeon.vision_pass.replay_format import read_replays

RECIPE = {
    "steps": 10, "density": 0.5, "layers": {"projector": 1.0}, "depth": 2, "distance": "nmse", "decoder": {"steps": 3},
    "baseline": {"steps": 3},
}  # fmt: skip
RELEASE = {
    "model": "model", "forget": "forget.jsonl", "retain": "retain.jsonl", "forget_heldout": "heldout.jsonl",
    "retain_heldout": "kept.jsonl", "text": "text.jsonl", "out": "out", "protocols": ["people"],
    "gates": {"eval": ["text.text.identical==1"], "restore": []},
}  # fmt: skip
# What only YAML has.
ODD = ["!!python/object/apply:os.system [x]", "&a [*a]", "? [a]\n: b", "2026-13-40", "0o9", ".inf", "<<: x", "%YAML 9"]


def _yaml(value: dict[str, Any], draw: random.Random) -> bytes:
    if draw.random() < 0.2:
        return f"{yaml.safe_dump(value)}\nsteps: {draw.choice(ODD)}\n".encode()
    content = yaml.safe_dump(altered(value, draw)).encode()
    return altered_bytes(content, draw) if draw.random() < 0.3 else content


def _altered_file(whole: bytes, draw: random.Random) -> bytes:
    """A safetensors file with something else in its header or its bytes."""
    if draw.random() < 0.5:
        return altered_bytes(whole, draw)
    length = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    header = json.loads(whole[LENGTH_BYTES:length])
    metadata = {key: json.loads(text) for key, text in header.get("__metadata__", {}).items()}
    if metadata and draw.random() < 0.5:
        told = altered(metadata, draw)
        header["__metadata__"] = {key: json.dumps(each) for key, each in told.items()}
    else:
        header = altered(header, draw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + whole[length:]


@pytest.mark.parametrize("count", COUNTS)
def test_recipes(tmp_path: Path, count: int) -> None:
    path = tmp_path / "recipe.yaml"

    def once(draw: random.Random) -> None:
        path.write_bytes(_yaml(RECIPE, draw))
        vkdsurgeon.load_recipe(path)

    campaign("recipes", count, 6, once)


@pytest.mark.parametrize("count", COUNTS)
def test_release_files(tmp_path: Path, count: int) -> None:
    path = tmp_path / "release.yaml"

    def once(draw: random.Random) -> None:
        path.write_bytes(_yaml(RELEASE, draw))
        load_release(path)

    campaign("release files", count, 7, once)


@pytest.mark.parametrize("count", COUNTS)
def test_results(tmp_path: Path, count: int) -> None:
    path, known = tmp_path / "result.json", list(documents.everything().values())

    def once(draw: random.Random) -> None:
        content = json.dumps(altered(draw.choice(known), draw)).encode()
        path.write_bytes(altered_bytes(content, draw) if draw.random() < 0.2 else content)
        read_source(path)

    campaign("results and records of runs", count, 8, once)


@pytest.mark.parametrize("count", COUNTS)
def test_patches(tmp_path: Path, count: int) -> None:
    base, path = build_checkpoint("llava", tmp_path / "base", dtype=torch.bfloat16), tmp_path / "fix.safetensors"
    operate(base, tmp_path / "patched", "vkdsurgeon.json", 1)
    vkdsurgeon.export_patch(base, tmp_path / "patched", path)
    whole, honest = path.read_bytes(), files_of(tmp_path / "patched")

    def once(draw: random.Random) -> None:
        path.write_bytes(_altered_file(whole, draw))
        verify_patches(base, [path])
        apply_patches(base, [path], tmp_path / "out")
        # Taken at all, as where only the name of the tool's version is another one, it makes what it always made.
        assert files_of(tmp_path / "out") == honest
        shutil.rmtree(tmp_path / "out")

    campaign("patches", count, 9, once)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", COUNTS)
def test_replay_files(tmp_path: Path, count: int) -> None:
    facts = {
        "schema_": "vkdsurgeon/replay/1", "layer": "encoder.1", "base": "0" * 64, "shape": [1, 3, 4],
        "subjects": [0, 0], "pixels": [{"pixel_values": {"shape": [3, 8, 8], "dtype": "float32"}}] * 2,
    }  # fmt: skip
    tensors = {f"{index} activation{copy}": torch.ones(3, 4) for index in range(2) for copy in ("", " 30001")}
    whole, path = save(tensors, metadata={"vkdsurgeon": json.dumps(facts)}), tmp_path / "replay.safetensors"
    path.write_bytes(whole)
    assert len(read_replays([path], None).images) == 2

    def once(draw: random.Random) -> None:
        path.write_bytes(_altered_file(whole, draw))
        read_replays([path], None)

    campaign("replay files", count, 10, once)
