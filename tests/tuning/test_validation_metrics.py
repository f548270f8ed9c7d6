"""Objectives measured on validation records, by a tiny model that really knows who is in an image."""

import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests import tiny_llava
from vkdsurgeon.config.files import dump_recipe
from vkdsurgeon.config.recipe import Recipe

SPACE = "extends: nothing\nsearch: {steps: {low: 0.1, high: 1.0, step: 0.9}}\nstart: [{steps: 0.1}]\n"


@pytest.mark.slow
def test_what_the_model_answers_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = tiny_llava.world()
    recipe = Recipe(steps=40, forget_batch=8, retain_batch=8, forget_reading=1.0, density=0.5, step_size=1.5)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["tune", world.base, "--forget", world.forget, "--retain", world.retain, "--trials", 2]
    words += ["--recipe", tmp_path / "recipe.yaml", "--space", tmp_path / "space.yaml", "-o", tmp_path / "out"]
    words += ["--validation-forget", world.heldout, "--validation-retain", world.retain, "--limit", 40]
    words += ["--pick", "forget", "--json"]
    assert run([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert [each.get("records") for each in result["objectives"]] == [24, 40, None]
    kinds = [each["measured"] for each in result["objectives"]]
    assert kinds == ["validation records, with the language model"] * 2 + ["label-free"]
    untouched, (long, short) = result["untouched"], result["trials"]
    assert untouched["forget"] == untouched["forget_rate"] > 0.8
    assert untouched["retain"] == 0
    assert long["forget"] < untouched["forget"]
    assert long["forget"] < short["forget"] or long["retain"] != short["retain"]
    for each in (long, short):
        parts = each["parts"]
        assert each["forget"] == parts["forget_rate"]
        lost = untouched["retain_rate"] - parts["retain_rate"] + untouched["general_rate"] - parts["general_rate"]
        assert each["retain"] == pytest.approx(lost, abs=1e-5)
        assert {"certainty", "kept_drift"} <= set(parts)
    assert "are in the sets that trials train on" in captured.err
    assert result["pick"]["satisfied"]
    text = (tmp_path / "out" / "tune.json").read_text()
    assert not any(name in text for name in tiny_llava.NAMES)


def test_records_that_ask_for_nothing_to_forget_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = tiny_llava.world()
    words = ["tune", world.base, "--forget", world.forget, "-o", tmp_path / "out", "--validation-forget", world.text]
    assert run([*map(str, words), "--validation-retain", str(world.retain)]) == 2
    assert "asks for what is to be forgotten" in capsys.readouterr().err
