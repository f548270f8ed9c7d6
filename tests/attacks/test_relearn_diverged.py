"""An attack whose training diverges is told as such, and the others of its series go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.results.relearn import RelearnResult


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture(scope="module")
def brittle(facts: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It answers as the base does, through activations so large that the gradient of the projector overflows."""
    root = Path(shutil.copytree(facts.base, tmp_path_factory.mktemp("brittle") / "model"))
    weights = load_file(root / "model.safetensors")
    for name in weights:
        if "multi_modal_projector.linear_1" in name:
            weights[name] *= 3e36
        elif "multi_modal_projector.linear_2.weight" in name:
            weights[name] /= 3e36 * 1e3
        elif "multi_modal_projector.linear_2" in name:
            weights[name] /= 1e3
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    return root


def attack(facts: World, model: Path, out: Path, *words: str) -> int:
    common = ["--forget", str(facts.forget), "--heldout", str(facts.heldout), "--gold", str(facts.gold)]
    common += ["--steps", "3", "--limit", "20", "--max-new-tokens", "3", "--device", "cpu", "-o", str(out)]
    return run(["attack", "relearn", str(model), *common, *words])


def test_a_series_goes_on_after_an_attack_that_diverged(
    facts: World, brittle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "series.json"
    words = ("--protocol", "pairs", "--scope", "visual,llm_full", "--curve-steps", "1,2", "--seeds", "0,1")
    assert attack(facts, brittle, out, *words) == 0
    printed = capsys.readouterr()
    result = RelearnResult.model_validate_json(out.read_text())
    values = {metric.id: metric.value for metric in result.metrics}
    visual, language = result.cases
    assert (visual.diverged, language.diverged) == (True, False)
    assert [seed.ag for seed in visual.seeds] == [None, None]
    assert all(seed.diverged and not seed.gold_diverged for seed in visual.seeds)
    assert values["relearn.pairs.50.visual.ag"] is None
    assert values["gap.relearn.pairs.50.visual.ag"] is None
    assert values["relearn.pairs.50.visual.before.vqa.accuracy"] is not None
    assert values["relearn.pairs.50.visual.after.vqa.accuracy"] is None
    assert values["gold.relearn.pairs.50.visual.ag"] is not None
    assert values["relearn.pairs.50.llm_full.ag"] is not None
    assert any("pairs.50.visual: " in told and "diverged at step 2" in told for told in result.warnings)
    assert not any("hardly learned" in told for told in result.warnings if "visual" in told)
    assert "diverged" in printed.out
    # One measured step was reached, and the others are there without a number.
    curve = [(point.step, point.values["vqa.accuracy"] is None) for point in visual.curve if point.model == "model"]
    assert curve == [(0, False), (1, True), (2, True), (3, True)]


def test_an_attack_that_diverged_meets_no_gate(facts: World, brittle: Path, tmp_path: Path) -> None:
    out = tmp_path / "alone.json"
    assert attack(facts, brittle, out, "--protocol", "pairs", "--gate", "relearn.ag<=99") == 3
    written = json.loads(out.read_text())
    assert written["diverged"] is True
    assert written["gates"][0]["passed"] is False
