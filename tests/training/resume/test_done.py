"""A run that was killed after its output had appeared is done: asked again with --resume, it says so."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.resume.runs import DECODER, RECIPE, Ear, Killed, Place, asked, files, go, killed
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.resume.files import Folder
from vkdsurgeon.training.resume.journal import Journal

MET = RECIPE.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0, "decoder": DECODER})


def _killed_at_the_removal(request: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> dict[str, Any]:
    """Run up to the moment between the rename and the end of the removal; what it would have said."""
    with monkeypatch.context() as patched:
        if how == "before":
            patched.setattr(Journal, "discard", lambda self: killed())
        else:

            def part(self: Folder) -> None:
                self.commit({"inputs": {}, "passes": {}})
                killed()

            patched.setattr(Folder, "remove", part)
        with pytest.raises(Killed):
            go(request)
    assert request.out.exists()
    assert request.out.with_name("out.journal").exists()
    found: dict[str, Any] = json.loads((request.out / "vkdsurgeon.json").read_text())
    return found


@pytest.mark.parametrize("how", [pytest.param("before", marks=pytest.mark.campaign), "within"])
def test_between_the_rename_and_the_removal_of_the_journal(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    out = tmp_path / "out"
    whole = go(asked(here, tmp_path / "whole", MET)).as_dict()
    record = _killed_at_the_removal(asked(here, out, MET), monkeypatch, how)
    before = files(out)
    ear = Ear()
    result = go(asked(here, out, MET, resume=True), ear)
    assert files(out) == before
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
    assert "step" not in ear.events
    assert any("nothing to do" in note for note in ear.notes)
    told = result.as_dict()
    for part in (told, whole):
        part.pop("seconds"), part.pop("out"), part["written"].pop("seconds")
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(whole))
    assert told["written"]["weights_digest"] == record["weights_digest"]
    # Asked again when even the journal is gone.
    assert go(asked(here, out, MET, resume=True)).as_dict()["written"] is not None


def test_a_run_that_missed_its_stop_rule_keeps_its_journal(here: Place, tmp_path: Path) -> None:
    request = asked(here, tmp_path / "out", RECIPE)
    first = go(request)
    kept = files(tmp_path / "out.journal")
    again = go(replace(request, resume=True))
    assert again.verdict == first.verdict
    assert again.verdict is not None
    assert not again.verdict.met
    assert again.journal == first.journal
    assert files(tmp_path / "out.journal") == kept


@pytest.mark.parametrize(
    "what",
    [
        *("seed", "sets", "a byte", "no --resume"),
        *(pytest.param(each, marks=pytest.mark.campaign) for each in ("recipe", "a file", "a foreign directory")),
    ],
)
def test_another_output_is_in_the_way(here: Place, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    recipe = MET.model_copy(update={"decoder": None, "steps": 2})
    request = asked(here, out, recipe)
    if what == "a foreign directory":
        out.mkdir()
        (out / "vkdsurgeon.json").write_text('{"schema": "vkdsurgeon/provenance/1"}')
    else:
        go(request)
    request = replace(request, resume=what != "no --resume")
    if what == "seed":
        request = replace(request, seed=4)
    elif what == "recipe":
        request = replace(request, recipe=recipe.model_copy(update={"density": 0.3}))
    elif what == "sets":
        folder = Path(shutil.copytree(here.forget.parent, tmp_path / "sets"))
        rows = (folder / here.forget.name).read_text().splitlines(keepends=True)
        (folder / here.forget.name).write_text("".join(rows[:-2]))
        request = replace(request, forget=folder / here.forget.name)
    elif what == "a byte":
        with (out / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
    elif what == "a file":
        (out / "notes.txt").write_text("mine")
    before = files(out)
    ear = Ear()
    with pytest.raises(UserError, match="the output directory is not empty"):
        go(request, ear)
    assert files(out) == before
    assert "step" not in ear.events
