"""`vkdsurgeon diff` and `vkdsurgeon inspect`: what they say, and with which status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from vkdsurgeon_cli.main import run

from tests.checkpoint.conftest import edit_json, edit_tensors
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.shard_index import SINGLE
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.checkpoint.stage import write_patched

EMBEDDING = "language_model.lm_head.weight"


@pytest.fixture
def patched(single: Path, tmp_path: Path) -> Path:
    """The single-file LLaVA with seven elements of one visual tensor changed, and a file added."""
    inventory = take_inventory(single)
    name = split_checkpoint(inventory).projector[0]
    value = read_tensor(inventory, name)
    value.view(-1)[:7] += 1
    write_patched(inventory, {name: value}, tmp_path / "out", extra_files={"proof.json": b"{}"})
    return tmp_path / "out"


def document(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    status = run([str(word) for word in words] + ["--json"])
    return status, json.loads(capsys.readouterr().out)


def test_identical(single: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = document(capsys, "diff", single, single)
    assert status == 0
    assert found["identical"]
    assert found["language_identical"]
    assert found["elements_changed"] == 0
    assert run(["diff", str(single), str(single)]) == 0
    assert capsys.readouterr().out.startswith("Identical: 80 tensors")


def test_counts_what_surgery_changed(single: Path, patched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = document(capsys, "diff", single, patched, "--only-visual")
    assert status == 0
    assert (found["tensors_changed"], found["elements_changed"]) == (1, 7)
    assert found["changed"][0]["part"] == "projector"
    assert found["language_identical"]
    assert found["headers_identical"]
    states = found["files"]
    assert states.pop("proof.json") == "extra"
    assert states.pop(SINGLE) == "changed"
    assert set(states.values()) == {"identical"}
    assert run(["diff", str(single), str(patched)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Everything outside tower and projector is identical."
    assert max(map(len, lines)) <= 80
    assert any("7" in line.split()[1:] for line in lines), "by layer"
    assert run(["diff", str(single), str(patched), "--tensors", "--wide"]) == 0
    assert found["changed"][0]["tensor"] in capsys.readouterr().out


def test_only_visual_is_a_gate(single: Path, patched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_tensors(patched / SINGLE, lambda tensors: tensors[EMBEDDING].view(-1)[:2].add_(1))
    status, found = document(capsys, "diff", single, patched, "--only-visual")
    assert status == 3
    assert found["language_identical"] is False
    assert {change["tensor"]: change["changed"] for change in found["changed"]}[EMBEDDING] == 2
    assert run(["diff", str(single), str(patched)]) == 0
    assert "OUTSIDE" in capsys.readouterr().out


def test_files_missing_and_changed(single: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(single, tmp_path / "other"))
    (other / "generation_config.json").unlink(missing_ok=True)
    edit_json(other / "config.json", lambda config: config.update(note=1))
    found = diff_checkpoints(single, other)
    assert found.files["config.json"] == "changed"
    assert not found.tensors
    assert not found.identical
    if (single / "generation_config.json").exists():
        assert found.files_that_are("missing") == ("generation_config.json",)


def test_tensors_missing_added_and_reshaped(single: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(single, tmp_path / "other"))

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["new"] = tensors.pop(EMBEDDING)
        visual = next(name for name in tensors if "projector" in name and tensors[name].ndim == 2)
        tensors[visual] = tensors[visual].reshape(-1)

    edit_tensors(other / SINGLE, edit)
    found = diff_checkpoints(single, other)
    assert (found.missing, found.added) == ((EMBEDDING,), ("new",))
    assert found.language_identical is False
    assert not found.headers_identical
    (reshaped,) = found.tensors
    assert reshaped.changed == reshaped.elements


def test_unknown_architectures_are_compared_but_not_judged(
    single: Path, patched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in (single, patched):
        edit_json(root / "config.json", lambda config: config.update(model_type="of_tomorrow"))
    status, found = document(capsys, "diff", single, patched)
    assert status == 0
    assert found["language_identical"] is None
    assert found["elements_changed"] == 7
    status, found = document(capsys, "diff", single, patched, "--only-visual")
    assert status == 2


def test_refuses_what_is_no_checkpoint(single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = document(capsys, "diff", single, tmp_path / "nowhere")
    assert status == 2
    assert "nowhere" in found["error"]["where"]


def test_inspect_shows_the_split(sharded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = document(capsys, "inspect", sharded)
    assert status == 0
    assert found["model_type"] == "llava"
    parts = {part["part"]: part for part in found["parts"]}
    assert parts["tower"]["modules"] == ["model.vision_tower"]
    assert parts["projector"]["modules"] == ["model.multi_modal_projector"]
    assert sum(part["tensors"] for part in found["parts"]) == len(take_inventory(sharded).tensors)
    assert parts["language"]["dtypes"] == ["BF16"]
    assert found["layers"] == ["layer.0", "layer.1", "projector"]
    assert run(["inspect", str(sharded)]) == 0
    assert "projector" in capsys.readouterr().out


def test_inspect_warns_and_refuses(single: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (single / "consolidated.safetensors").write_bytes(b"")
    assert run(["inspect", str(single), "--json"]) == 0
    captured = capsys.readouterr()
    assert "consolidated.safetensors" in captured.err
    assert json.loads(captured.out)["warnings"]
    status, found = document(capsys, "inspect", single, "--tower", "nope")
    assert status == 2
    assert "model.vision_tower" in found["error"]["expected"]
