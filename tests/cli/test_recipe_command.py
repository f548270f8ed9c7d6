"""`vkdsurgeon recipe`, `--set`, and what becomes of options that are gone."""

import json
from pathlib import Path

import pytest
import yaml
from vkdsurgeon_cli.main import run

from vkdsurgeon.config.files import load_recipe
from vkdsurgeon.config.recipe import Recipe


def test_keys_are_listed_within_eighty_columns(capsys: pytest.CaptureFixture[str]):
    assert run(["recipe", "keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "density" in lines
    assert "    number; default: 0.5; robust preset: 1" in lines


def test_keys_are_a_document_and_can_be_chosen(capsys: pytest.CaptureFixture[str]):
    assert run(["recipe", "keys", "decoder.", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["kind"]) == ("vkdsurgeon/recipe-keys/1", "recipe-keys")
    assert {each["key"].split(".")[0] for each in document["keys"]} == {"decoder"}
    assert set(document["keys"][0]) == {"key", "type", "default", "presets", "meaning"}
    assert run(["recipe", "keys", "densty"]) == 2
    assert "did you mean 'density'" in capsys.readouterr().err


def test_a_recipe_is_shown_as_yaml_that_unlearn_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["recipe", "show", "--preset", "robust", "--set", "density=0.25"]) == 0
    shown = capsys.readouterr().out
    file = tmp_path / "recipe.yaml"
    file.write_text(shown)
    expected = load_recipe(None, {"density": 0.25}, "robust")
    assert yaml.safe_load(shown) == expected.model_dump()
    assert load_recipe(file, {}) == expected != Recipe()
    assert run(["recipe", "show", "--preset", "robust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["density"] == 1.0


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--retain-drift", "--set retain_drift=VALUE"),
        ("--decoder-steps", "--set decoder.steps=VALUE"),
        ("--baseline", "--set baseline.KEY=VALUE"),
        ("--out", "--output or -o"),
    ],
)
def test_an_option_that_is_gone_is_told_what_it_is_now(option: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert run(["unlearn", "model", "--forget", "f", option, "1", "--json"]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert told in json.loads(captured.out)["error"]["remedy"]


@pytest.mark.parametrize("command", ["unlearn", "tune"])
def test_no_setting_edits_the_language_model_unasked(command: str, capsys: pytest.CaptureFixture[str]):
    words = [command, "/no/such/model", "--forget", "f", "-o", "x", "--set", "decoder.steps=9"]
    assert run(words) == 2
    assert (
        "--set decoder.steps: a setting of the decoder pass was given, but no decoder pass" in capsys.readouterr().err
    )
    assert run([*words, "--preset", "decoder"]) == 2
    assert "no such" in capsys.readouterr().err


def test_a_misspelt_key_is_told_before_anything_is_read(capsys: pytest.CaptureFixture[str]):
    assert run(["unlearn", "/no/such/model", "--forget", "f", "-o", "x", "--set", "denisty=1"]) == 2
    assert "did you mean 'density'" in capsys.readouterr().err
