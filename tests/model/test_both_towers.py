"""Images and clips in one run: both towers forget, as in two runs one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.voices import build_seeing_too, write_voices
from vkdsurgeon.errors import UserError
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.training.events import Event

RECIPE = {
    "steps": 2, "extensions": 0, "forget_batch": 4, "retain_batch": 4, "copies": 1, "step_size": 0.3,
    "forget_target": "swap", "forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 1e6,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seeing_too(tmp_path_factory.mktemp("omni") / "model")


@pytest.fixture(scope="module")
def mixed(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sets whose records have an image or a clip."""
    folder, found = tmp_path_factory.mktemp("mixed"), {}
    for role, speakers in (("forget", range(2)), ("retain", range(10, 13))):
        clips = write_voices(folder / "clips", role, speakers, takes=3)
        rows = [
            {**row, key: str(file.parent / row[key])}
            for file, key in ((sets[role], "image"), (clips, "audio"))
            for row in map(json.loads, file.read_text().splitlines())
        ]
        found[role] = folder / f"{role}.jsonl"
        found[role].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


@pytest.fixture(scope="module")
def twice(model: Path, mixed: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two runs write."""
    folder = tmp_path_factory.mktemp("twice")
    common: dict[str, Any] = {"retain": mixed["retain"], "recipe": RECIPE, "device": "cpu"}
    vkdsurgeon.unlearn(model, mixed["forget"], folder / "seen", **common)
    vkdsurgeon.unlearn(folder / "seen", mixed["forget"], folder / "out", modality="audio", **common)
    return weights(folder / "out")


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("*.safetensors")}


def both(model: Path, mixed: dict[str, Path], out: Path | None, **changes: Any) -> UnlearnResult:
    asked = {"retain": mixed["retain"], "recipe": RECIPE, "device": "cpu", "modality": "both", **changes}
    return vkdsurgeon.unlearn(model, mixed["forget"], out, **asked)


def test_it_is_two_runs(model: Path, mixed: dict[str, Path], twice: dict[str, bytes], tmp_path: Path) -> None:
    found = both(model, mixed, tmp_path / "out")
    assert found.passed
    assert weights(tmp_path / "out") == twice
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert found.image_pass is not None
    assert (found.image_pass.plan.modality, found.plan.modality) == ("image", "audio")
    assert {tensor.tensor.split(".")[0] for tensor in vkdsurgeon.diff(model, tmp_path / "out").changed} == {
        "audio_tower", "visual",
    }  # fmt: skip
    assert UnlearnResult.model_validate_json(found.model_dump_json()).image_pass is not None
    checked = vkdsurgeon.verify(tmp_path / "out", base=model)
    assert checked.passed
    told = {each.check: each.told for each in checked.checks}
    assert told["chain"].startswith("1 earlier run")
    assert told["base"] == "it is the base that the first of 2 runs began with"


def test_it_goes_on_where_it_was_stopped(
    model: Path, mixed: dict[str, Path], twice: dict[str, bytes], tmp_path: Path
) -> None:
    steps = 0

    def stop(event: Event) -> None:
        nonlocal steps
        steps += event.kind == "step"
        if steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both(model, mixed, tmp_path / "out", on_event=stop)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="ended half-way"):
        both(model, mixed, tmp_path / "out")
    both(model, mixed, tmp_path / "out", resume=True)
    assert weights(tmp_path / "out") == twice
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_wrong_clips_are_found_before_images_are_trained_on(
    model: Path, mixed: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    heard: list[str] = []
    with pytest.raises(UserError, match="the retain set has no clips"):
        both(model, mixed, tmp_path / "out", retain=sets["retain"], on_event=lambda event: heard.append(event.kind))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        both(model, mixed, tmp_path / "full", on_event=lambda event: heard.append(event.kind))
    assert "step" not in heard
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_what_was_missed_is_told_of_both(model: Path, mixed: dict[str, Path], tmp_path: Path) -> None:
    found = both(model, mixed, tmp_path / "out", recipe={**RECIPE, "retain_drift": 1e-9})
    assert [each.split(":")[0] for each in found.failures] == ["images", "clips"]
    assert found.journal is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("given", [{"tower": "visual"}, {"recipe": {**RECIPE, "decoder": {}}}])
def test_what_is_of_one_tower_is_refused(model: Path, mixed: dict[str, Path], given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="one tower alone"):
        both(model, mixed, None, **given)


@pytest.mark.parametrize(("modality", "told"), [("image", 6), ("audio", 16), ("both", 0)])
def test_records_that_one_tower_passes_over_are_told(
    model: Path, mixed: dict[str, Path], modality: str, told: int
) -> None:
    heard: list[str] = []
    both(
        model, mixed, None, modality=modality,
        on_event=lambda event: heard.append(event.text) if event.kind == "warning" else None,
    )  # fmt: skip
    found = [text for text in heard if "not for this tower" in text]
    assert [text.split()[0] for text in found] == ([str(told)] if told else [])


def test_the_command_line_plans_both(model: Path, mixed: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unlearn", str(model), "--forget", str(mixed["forget"]), "--retain", str(mixed["retain"]), "--dry-run"]
    words += ["--modality", "both", "--set", "forget_target=swap", "--steps", "2", "--set", "extensions=0"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["forget_pictures"] == 6
    assert found["image_pass"]["plan"]["forget_pictures"] == 16
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "16 forget" in shown
    assert "6 forget" in shown
