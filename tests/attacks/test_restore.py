"""The restore attack brings back what lies in the language model, and says so when there was nothing to put back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint
from tests.tiny_llava import World, world
from vkdsurgeon.attacks.restore import Restoring, put_back, restore
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.relearn import RestoreResult

SHORT = Scoring(max_new_tokens=3)


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture(scope="module")
def blinded(facts: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model behind a noisy projector: all of its knowledge of people is still in the language model."""
    root = Path(shutil.copytree(facts.base, tmp_path_factory.mktemp("blinded") / "model"))
    weights = load_file(root / "model.safetensors")
    name = next(name for name in weights if "multi_modal_projector.linear_2.weight" in name)
    noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(1))
    weights[name] += 8.0 * weights[name].std() * noise
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    return root


def test_what_is_in_the_language_model_comes_back_exactly(facts: World, blinded: Path) -> None:
    result = restore(
        Restoring(
            model=blinded,
            reference=facts.base,
            gold=facts.gold,
            forget=read_set("forget", facts.heldout),
            retain=read_set("retain", facts.retain),
            limit=40,
            scoring=SHORT,
            device="cpu",
            gates=parse_gates(["restore.after.vqa.name.accuracy<=gold+0.03", "restore.gain.vqa.accuracy>0"]),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    for name in ("restore.after.vqa.name.accuracy", "restore.retain.after.vqa.accuracy"):
        assert values[name] == values[f"reference.{name}"] > 0.9
    assert values["restore.before.vqa.name.accuracy"] < 0.8
    assert values["gold.restore.after.vqa.name.accuracy"] < 0.8
    assert [gate.passed for gate in result.gates] == [False, True]
    assert result.settings.differing_elements == 64 * 64
    assert any("still in the language model" in warning for warning in result.warnings)


def test_each_part_is_put_back_alone(facts: World, blinded: Path) -> None:
    name = "model.multi_modal_projector.linear_2.weight"
    base = dict(load_model(facts.base, device="cpu").model.named_parameters())[name]
    for part, returns in (("tower", False), ("projector", True)):
        loaded = load_model(blinded, device="cpu")
        put_back(
            loaded, Restoring(model=blinded, reference=facts.base, forget=read_set("forget", facts.heldout), part=part)
        )
        assert torch.equal(dict(loaded.model.named_parameters())[name], base) == returns


def test_the_command(facts: World, blinded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "restore.json"
    words = ["attack", "restore", str(facts.base), "--reference", str(facts.base), "--forget", str(facts.heldout)]
    words += ["--limit", "6", "--device", "cpu", "--max-new-tokens", "3"]
    assert run([*words, "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert "nothing was put back" in printed.err
    assert "no gold model" in printed.err
    result = RestoreResult.model_validate_json(out.read_text())
    assert json.loads(printed.out)["kind"] == result.kind == "attack.restore"
    words[2] = str(blinded)
    assert run([*words, "--gate", "restore.after.vqa.accuracy<=0"]) == 3
    assert "put back" in capsys.readouterr().out
    assert run([*words, "--gate", "restored.after.vqa.accuracy<=0"]) == 2


def test_models_and_parts_that_do_not_fit_are_refused(facts: World, blinded: Path, tmp_path: Path) -> None:
    forget = read_set("forget", facts.heldout)
    loaded = load_model(blinded, device="cpu")
    other = build_checkpoint("llava", tmp_path / "llava")
    with pytest.raises(UserError, match="does not fit"):
        put_back(loaded, Restoring(model=blinded, reference=other, forget=forget))
