"""A journal takes nothing for its own that it did not write, and nothing from a run that is still alive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.training.resume.runs import RECIPE, Ear, Place, asked, files, go, journal, stop
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Event

MET = RECIPE.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0})


@pytest.mark.parametrize(
    "name",
    [
        "sd-turbo-1.0.safetensors",
        "visual-lora-1.0.safetensors",
        "visual-state-1.0.safetensors",
        "journal.json.part",
        "journal.json",
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_of_somebody_elses_files_is_refused(here: Place, tmp_path: Path, name: str, resume: bool) -> None:
    theirs = tmp_path / "weights"
    theirs.mkdir()
    (theirs / name).write_text('{"entries": ["my own diary"]}')
    before = files(tmp_path)
    with pytest.raises(UserError, match="this directory is not a journal") as refused:
        go(asked(here, tmp_path / "out", MET, journal=theirs, resume=resume))
    assert "start again" not in str(refused.value)
    assert files(tmp_path) == before


def test_what_lies_beside_a_journal_is_not_taken_for_part_of_it(here: Place, tmp_path: Path) -> None:
    out, place = tmp_path / "out", tmp_path / "kept"
    stop(asked(here, out, MET, journal=place), "step 3")
    for name in ("sd-turbo-1.0.safetensors", "visual-lora-1.0.safetensors", "other-state-1.0.safetensors"):
        (place / name).write_text("precious")
    go(asked(here, out, MET, journal=place, resume=True))
    assert sorted(os.listdir(place)) == [
        "other-state-1.0.safetensors",
        "sd-turbo-1.0.safetensors",
        "visual-lora-1.0.safetensors",
    ]


@pytest.mark.parametrize("at", ["stage 1", "step 1", "step 3", "verdict 1", "writing 1"])
def test_a_second_equal_run_is_refused_at_its_start(here: Place, tmp_path: Path, at: str) -> None:
    """Also before the first one has saved anything."""
    seen: list[tuple[str, list[str]]] = []

    def second() -> None:
        before = files(tmp_path)
        ear = Ear()
        with pytest.raises(UserError) as refused:
            go(asked(here, tmp_path / "out", checkpoint_minutes=9.0), ear)
        assert files(tmp_path) == before
        seen.append((refused.value.what, ear.events))

    kind, number = at.split()

    class First(Ear):
        def __call__(self, event: Event) -> None:
            if kind == "stage" and not seen:
                second()
            super().__call__(event)

    result = go(asked(here, tmp_path / "out"), First(at, second))
    assert seen == [("another run is making this output", [])], number
    # The first one's journal is whole: the stop rule was missed, so it can be gone on with.
    assert result.journal == tmp_path / "out.journal"
    named = {entry["file"] for entry in journal(tmp_path / "out")["passes"]["visual"]["files"].values()}
    assert sorted(os.listdir(tmp_path / "out.journal")) == sorted([*named, "journal.json"])


def test_a_run_with_a_journal_of_its_own_is_refused_all_the_same(here: Place, tmp_path: Path) -> None:
    """Or it would find the output in its place at its very end."""

    def second() -> None:
        with pytest.raises(UserError, match="another run is making this output"):
            go(asked(here, tmp_path / "out", MET, journal=tmp_path / "other"))

    go(asked(here, tmp_path / "out", MET), Ear("step 2", second))
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_vanished_is_written_again(here: Place, tmp_path: Path) -> None:
    """The mask is the same in every save, and was written once."""
    out = tmp_path / "out"

    def lost() -> None:
        (out.with_name("out.journal") / "visual-mask-0.safetensors").unlink()

    class Ears(Ear):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.kind == "step" and self.events.count("step") == 3:
                lost()

    ear = Ears("step 6", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        go(asked(here, out), ear)
    go(asked(here, out, resume=True))
    go(asked(here, tmp_path / "whole"))
    assert files(out) == files(tmp_path / "whole")


def test_a_run_that_never_saved_leaves_no_directory(here: Place, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        go(asked(here, tmp_path / "out", retain=here.forget))
    assert os.listdir(tmp_path) == []


def test_a_directory_of_the_users_own_stays(here: Place, tmp_path: Path) -> None:
    """It was there, empty, before the run; it is there after it."""
    place = tmp_path / "place"
    place.mkdir()
    go(asked(here, tmp_path / "out", MET, journal=place))
    assert sorted(os.listdir(tmp_path)) == ["out", "place"]


def test_a_journal_without_a_state_is_no_obstacle(here: Place, tmp_path: Path) -> None:
    """What a kill between the first document and the first state leaves."""
    out = tmp_path / "out"
    stop(asked(here, out, MET), "step 2")
    document: dict[str, Any] = journal(out)
    from vkdsurgeon.training.resume.files import Folder

    folder = Folder(tmp_path / "out.journal")
    folder.lock()
    folder.commit({**{key: value for key, value in document.items() if key not in ("schema", "digest")}, "passes": {}})
    folder.close()
    (tmp_path / "out.journal" / "visual-mask-0.safetensors.part").write_text("half")
    go(asked(here, out, MET))
    assert os.listdir(tmp_path) == ["out"]


def test_part_of_the_first_document_is_no_obstacle(here: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop(asked(here, out, MET), "step 2")
    whole = (tmp_path / "out.journal" / "journal.json").read_bytes()
    json.loads(whole)
    for path in (tmp_path / "out.journal").iterdir():
        path.unlink()
    (tmp_path / "out.journal" / "journal.json.part").write_bytes(whole[:40])
    go(asked(here, out, MET))
    assert os.listdir(tmp_path) == ["out"]
