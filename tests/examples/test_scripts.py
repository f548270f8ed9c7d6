"""The scripts of examples/, run as they are on the built-in miniature, with few steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vkdsurgeon.data.miniature import MiniaturePaths, unpack

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> MiniaturePaths:
    return unpack(tmp_path_factory.mktemp("miniature") / "mini")


def test_every_script_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        "unlearn_and_gate",
        "custom_target_and_mask",
        "kernels_on_your_model",
    }


@pytest.mark.slow
def test_unlearn_and_gate(miniature: MiniaturePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = miniature.records
    words = [
        miniature.base, tmp_path / "out", "--gold", miniature.gold, "--forget", records / "forget.jsonl",
        "--retain", records / "retain_heldout.jsonl", "--heldout", records / "forget_heldout.jsonl",
        "--retain-heldout", records / "retain_heldout.jsonl", "--steps", 4, "--limit", 16, "--attack-steps", 2,
    ]  # fmt: skip
    status = script("unlearn_and_gate").main([str(word) for word in words])
    told = capsys.readouterr()
    # Four steps forget nothing: the gates say so, and everything that was measured is there all the same.
    assert status == 3
    assert "missed: " in told.err
    assert "stop rule: not met" in told.err
    assert told.out.startswith("failed: ")
    assert (tmp_path / "out" / "report.html").is_file()
    kinds = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["kind"]
        for name in ("unlearn", "diff", "eval", "relearn")
    }
    assert kinds == {"unlearn": "unlearn", "diff": "diff", "eval": "evaluation", "relearn": "attack.relearn"}
    assert script("unlearn_and_gate").main([str(word) for word in words]) == 2, "the output is there already"


@pytest.mark.usefixtures("own_words")
def test_custom_target_and_mask(miniature: MiniaturePaths, tmp_path: Path) -> None:
    records = miniature.records
    words = [miniature.base, tmp_path / "out", records / "forget.jsonl", records / "retain_heldout.jsonl"]
    run = script("custom_target_and_mask").main([*map(str, words), "--steps", "4"])
    assert run.write is not None
    assert run.recipe.forget_target == "average_stranger"
    assert run.plan.targets["projector"].own <= run.plan.targets["projector"].images / 10
    assert not any(name.endswith("bias") for name in run.write.by_tensor)


def test_kernels_on_your_model() -> None:
    found = script("kernels_on_your_model").main(["--steps", "10", "--device", "cpu"])
    assert found["forget"] < 0.9
    assert found["moved"] > 0
