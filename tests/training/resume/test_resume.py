"""A run that was stopped and resumed writes the very bytes of one that was not."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vkdsurgeon.training.resume.files
from tests.training.resume.runs import DECODER, RECIPE, Ear, Place, asked, files, go, journal, stop
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import SLACK_BYTES
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.training.events import Event
from vkdsurgeon.training.resume.files import Folder

BOTH = RECIPE.model_copy(update={"decoder": DECODER})


@pytest.mark.parametrize(
    "at",
    [
        *(pytest.param(at, marks=pytest.mark.campaign) for at in ("step 6", "verdict 1")),
        "step 11",
        "decoder step 3",
        "writing 1",
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(here: Place, whole: dict[str, bytes], tmp_path: Path, at: str) -> None:
    request = asked(here, tmp_path / "out", BOTH)
    stop(request, at)
    assert not request.out.exists()  # type: ignore[union-attr]
    ear = Ear()
    go(asked(here, tmp_path / "out", BOTH, resume=True), ear)
    assert files(tmp_path / "out") == whole
    done = {"step": 12, "decoder step": 4}
    kind = at.rsplit(" ", 1)[0]
    if kind in done:
        # The step that was under way is made again, and none before it.
        assert ear.events.count(kind) == done[kind] - int(at.split()[-1]) + 1


def test_it_may_be_killed_again_and_again(here: Place, whole: dict[str, bytes], tmp_path: Path) -> None:
    request = asked(here, tmp_path / "out", BOTH, resume=True)
    for at in ("step 3", "step 4", "decoder step 2"):
        stop(request, at)
    go(request)
    assert files(tmp_path / "out") == whole


def test_an_interrupt_waits_for_the_end_of_the_step(here: Place, whole: dict[str, bytes], tmp_path: Path) -> None:
    out, handler = tmp_path / "out", signal.getsignal(signal.SIGINT)
    # Saved because of the signal alone.
    request = asked(here, out, BOTH, checkpoint_minutes=9.0)
    ear = stop(request, "step 5", lambda: signal.raise_signal(signal.SIGINT))
    assert any(f"progress is saved in {out}.journal: add `resume`" in note for note in ear.notes)
    assert journal(out)["passes"]["visual"]["facts"]["step"] == 5
    assert signal.getsignal(signal.SIGINT) is handler
    stop(asked(here, out, BOTH, resume=True), "decoder step 2", lambda: signal.raise_signal(signal.SIGINT))
    go(asked(here, out, BOTH, resume=True))
    assert files(out) == whole


def test_a_second_interrupt_does_not_wait(here: Place, tmp_path: Path) -> None:
    def impatient() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stop(asked(here, tmp_path / "out", checkpoint_minutes=9.0), "step 5", impatient)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": torch.bfloat16},
        pytest.param(
            {"recipe": RECIPE.model_copy(update={"granularity": "row", "weight_decay": 0.1})},
            marks=pytest.mark.campaign,
        ),
        pytest.param(
            {"recipe": RECIPE.model_copy(update={"forget_target": "common", "saliency": "random"})},
            marks=pytest.mark.campaign,
        ),
        {"recipe": RECIPE.model_copy(update={"tamper_weight": 1.0, "tamper_steps": 2, "tamper_horizon": 6})},
        pytest.param(
            {"recipe": RECIPE.model_copy(update={"identity_weight": 0.1, "tamper_weight": 0.5})},
            marks=pytest.mark.campaign,
        ),
    ],
    ids=["bfloat16", "rows", "draws", "attacker", "hardening"],
)
def test_every_kind_of_state_is_saved(here: Place, llava: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    here = replace(here, model=llava)
    go(asked(here, tmp_path / "whole", **changes))
    stop(asked(here, tmp_path / "out", **changes), "step 6")
    go(asked(here, tmp_path / "out", resume=True, **changes))
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.campaign
def test_narrow_moments_of_the_decoder_pass_are_saved(here: Place, tmp_path: Path) -> None:
    decoder = DECODER.model_copy(update={"moments": "int8", "dtype": "bfloat16"})
    recipe = BOTH.model_copy(update={"steps": 2, "extensions": 0, "decoder": decoder})
    go(asked(here, tmp_path / "whole", recipe))
    stop(asked(here, tmp_path / "out", recipe), "decoder step 3")
    go(asked(here, tmp_path / "out", recipe, resume=True))
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_resume_without_a_journal_starts_and_says_so(here: Place, tmp_path: Path) -> None:
    ear = Ear()
    go(asked(here, tmp_path / "out", resume=True), ear)
    assert any("a new run starts" in note for note in ear.notes)
    assert ear.events.count("step") == 12


def test_a_journal_is_never_overwritten_unasked(here: Place, tmp_path: Path) -> None:
    stop(asked(here, tmp_path / "out"), "step 3")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"(?s)journal of an earlier run.*`resume`.*remove the directory"):
        go(asked(here, tmp_path / "out"))
    assert files(tmp_path) == before


def test_a_met_stop_rule_leaves_the_output_alone(here: Place, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0})
    result = go(asked(here, tmp_path / "out", recipe))
    assert os.listdir(tmp_path) == ["out"]
    assert result.journal is None
    assert result.as_dict()["stop_rule_written"] == {"index": 0, "reason": "the stop rule was met"}


def test_a_run_that_diverges_leaves_nothing_to_resume(here: Place, tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match="lower step_size"):
        go(asked(here, tmp_path / "out", RECIPE.model_copy(update={"step_size": 1e30})))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_once_and_stops_nothing(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = vkdsurgeon.training.resume.files.save_file
    room = [3]

    def full(tensors: Any, path: Path) -> None:
        room[0] -= 1
        if room[0] < 0:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(tensors, path)

    go(asked(here, tmp_path / "whole"))
    monkeypatch.setattr(vkdsurgeon.training.resume.files, "save_file", full)
    ear = Ear("step 6", lambda: None)
    stop(asked(here, tmp_path / "out"), "step 6")
    # The mask and two states went onto the disk.
    assert journal(tmp_path / "out")["passes"]["visual"]["facts"]["step"] == 2
    assert sorted(os.listdir(tmp_path / "out.journal")) == [
        "journal.json",
        "visual-mask-0.safetensors",
        "visual-state-0.2.safetensors",
    ]
    go(asked(here, tmp_path / "out", resume=True), ear)
    assert len(ear.warnings) == 1
    assert "No space left on device" in ear.warnings[0]
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_disk_that_is_full_from_the_start_leaves_no_journal(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Folder, document: Any) -> None:
        (self.path / "journal.json.part").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "commit", full)
    ear = Ear()
    result = go(asked(here, tmp_path / "out"), ear)
    assert len(ear.warnings) == 1
    assert result.journal is None
    assert os.listdir(tmp_path) == ["out"]


def test_the_room_for_the_output_is_left_alone(here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for the output, and for half a state more."""
    inventory = take_inventory(here.model)
    free = inventory.size + SLACK_BYTES + 10_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2 * free, free, free))  # type: ignore[attr-defined]
    ear = Ear()
    go(asked(here, tmp_path / "out"), ear)
    assert len(ear.warnings) == 1
    assert "the room that the output needs" in ear.warnings[0]
    assert os.listdir(tmp_path) == ["out"]


def test_a_slow_disk_is_not_written_to_all_the_time(here: Place, tmp_path: Path) -> None:
    """Once a minute is more often than this run lasts, so only the verdicts are saved."""
    seen: list[bool] = []

    class Watching(Ear):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if event.kind == "step":
                seen.append((tmp_path / "out.journal" / "journal.json").exists())

    go(asked(here, tmp_path / "out", checkpoint_minutes=1.0), Watching())
    assert seen == [False] * 8 + [True] * 4
