"""A run of several processes is the run of one, to rounding; the first process alone writes and is heard."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes.group import launched, together
from tests.training.resume.runs import DECODER, RECIPE, Place, asked, files, journal, place
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.model import process_group
from vkdsurgeon.model.device import resolve_device
from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.pipeline.run import run
from vkdsurgeon.training.events import Event
from vkdsurgeon.vision_pass import trainer

MET = {"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0}
SHORT = RECIPE.model_copy(update={"steps": 3, "extensions": 0, "tamper_weight": 0.5, "step_drift": 1e-3, **MET})
ATTACKED = SHORT.model_copy(update={"tamper_weight": 1.0, "tamper_steps": 1})
LOST = "another process of this run was lost"
# What the first process tells the others; of the plan's memory they have the rounded parts.
SAME = ("recipe", "stop_rule", "stop_rule_written", "written", "selected_elements", "seconds", "out")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny model and its sets."""
    return place(tmp_path_factory.mktemp("together") / "place")


def furthest(left: Path, right: Path) -> float:
    """The largest difference of a weight of two checkpoints."""
    one, other = take_inventory(left), take_inventory(right)
    gaps = [(read_tensor(one, name).float() - read_tensor(other, name).float()).abs().max() for name in one.tensors]
    return float(torch.stack(gaps).max())


def go(here: Place, out: Path, processes: Processes, recipe: Recipe = SHORT, **changes: Any) -> dict[str, Any]:
    """Run it, and tell what one process saw."""
    heard: list[Event] = []
    result = run(asked(here, out, recipe, processes=processes, **changes), heard.append)
    steps = [event.subject.loss for event in heard if event.kind == "step"]
    return {"document": result.model_dump(mode="json"), "steps": steps, "heard": len(heard)}


@pytest.mark.parametrize(
    ("count", "recipe", "close"),
    [(2, SHORT, 1e-6), pytest.param(3, ATTACKED, 5e-5, marks=pytest.mark.campaign)],
    ids=["plain", "attacked"],
)
def test_it_is_the_run_of_one_process(here: Place, tmp_path: Path, count: int, recipe: Recipe, close: float) -> None:
    alone = go(here, tmp_path / "alone", ALONE, recipe)
    first, *others = together(count, lambda processes: go(here, tmp_path / "out", processes, recipe))
    moved = furthest(tmp_path / "alone", here.model)
    assert furthest(tmp_path / "alone", tmp_path / "out") <= close < moved / 10
    assert first["steps"] == pytest.approx(alone["steps"], rel=1e-4)
    for other in others:
        assert other["heard"] == 0
        assert {key: other["document"][key] for key in SAME} == {key: first["document"][key] for key in SAME}
    told = [run["document"]["stop_rule"][0] for run in (alone, first)]
    assert all(told[0][name] == told[1][name] for name in ("own", "agree", "pictures", "readable", "met"))
    record = json.loads((tmp_path / "out" / "vkdsurgeon.json").read_text())
    assert record["environment"]["processes"] == count
    assert record["selected_elements"] == alone["document"]["selected_elements"]


def words(here: Place, out: Path, *more: str) -> Callable[[int], list[str]]:
    """The command line of `SHORT`, saved after every step."""
    given = ["--forget", str(here.forget), "--retain", str(here.retain), "-o", str(out), "--checkpoint-minutes", "0"]
    kept = {key: getattr(SHORT, key) for key in ("stand_ins", "copies", "extensions", "step_drift", *MET)}
    keys = [word for key, value in kept.items() for word in ("--set", f"{key}={value}")]
    batches = ["--set", "forget_batch=5", "--set", "retain_batch=6", "--steps", "3"]
    return lambda rank: ["unlearn", str(here.model), *given, *keys, *batches, *more]


def struck(step: int, act: Callable[[], object], rank: int = 1) -> Callable[[int], None]:
    """Lets something happen to one process in a step; the first seven settle the moments."""

    def prepare(own: int) -> None:
        taken = 0

        def strike(*args: Any) -> None:
            nonlocal taken
            taken += 1
            # One more finds the size.
            if taken == step + 8:
                act()
            take_step(*args)

        take_step = trainer.take_step
        if own == rank:
            trainer.take_step = strike

    return prepare


def test_a_lost_process_ends_all_and_the_run_goes_on_later(here: Place, tmp_path: Path) -> None:
    whole = launched(2, words(here, tmp_path / "whole"))
    assert [each.status for each in whole] == [0, 0], whole
    assert not whole[1].out + whole[1].err
    first, second = launched(2, words(here, tmp_path / "out"), struck(2, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert (first.status, second.status) == (1, -signal.SIGKILL)
    assert first.err.count(LOST) == 1
    assert f"progress is saved in {tmp_path / 'out'}.journal" in first.err
    assert not (tmp_path / "out").exists()
    assert journal(tmp_path / "out")["passes"]["visual"]["facts"]["step"] == 1
    again = tmp_path / "out.journal", tmp_path / "alone.journal"
    for file in again[0].iterdir():
        again[1].mkdir(exist_ok=True)
        (again[1] / file.name).write_bytes(file.read_bytes())
    assert [each.status for each in launched(2, words(here, tmp_path / "out", "--resume"))] == [0, 0]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert [each.status for each in launched(1, words(here, tmp_path / "alone", "--resume"))] == [0]
    assert furthest(tmp_path / "alone", tmp_path / "whole") <= 1e-6
    done = launched(2, words(here, tmp_path / "out", "--resume"))
    assert [each.status for each in done] == [0, 0]
    assert "there is nothing to do" in done[0].err


def test_a_loss_is_noticed_where_nothing_is_exchanged(
    here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(process_group, "_LOST_SECONDS", 4.0)

    def prepare(rank: int) -> None:
        struck(1, lambda: time.sleep(50), rank=0)(rank)
        struck(1, lambda: os.kill(os.getpid(), signal.SIGKILL))(rank)

    started = time.monotonic()
    first, second = launched(2, words(here, tmp_path / "out"), prepare)
    assert time.monotonic() - started < 45
    assert (first.status, second.status) == (1, -signal.SIGKILL)
    assert first.err.count(LOST) == 1


def test_an_interrupt_of_one_process_ends_all_after_the_same_step(here: Place, tmp_path: Path) -> None:
    ended = launched(2, words(here, tmp_path / "out"), struck(2, lambda: signal.raise_signal(signal.SIGINT)))
    assert [each.status for each in ended] == [130, 130]
    assert f"progress is saved in {tmp_path / 'out'}.journal" in ended[0].err
    assert not ended[1].out + ended[1].err
    assert journal(tmp_path / "out")["passes"]["visual"]["facts"]["step"] == 2


def test_what_went_wrong_is_told_once(here: Place, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("only here")

    ended = launched(2, words(here, tmp_path / "out"), struck(1, fail))
    assert [each.status for each in ended] == [1, 1]
    assert "only here" in ended[1].err
    assert LOST not in ended[0].err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    ended = launched(2, words(here, tmp_path / "full"))
    assert [each.status for each in ended] == [2, 2]
    assert "".join(each.err for each in ended).count("the output directory is not empty") == 1


def test_processes_of_other_input_are_refused(here: Place, tmp_path: Path) -> None:
    same = words(here, tmp_path / "out")
    ended = launched(2, lambda rank: [*same(rank), "--seed", str(rank)])
    assert [each.status for each in ended] == [2, 2]
    assert "".join(each.err for each in ended).count("process 1 was given something else than process 0: seed") == 1


@pytest.mark.parametrize("more", [["inspect"], ["unlearn", "--method", "npo", "--forget", "f", "-o", "o"]])
def test_what_one_process_does_is_refused_before_anything_starts(here: Place, more: list[str]) -> None:
    ended = launched(2, lambda rank: [more[0], str(here.model), *more[1:]])
    assert [each.status for each in ended] == [2, 2]
    assert "runs in one process (got '2')" in ended[0].err
    assert not ended[1].err


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [str(resolve_device(name, 3)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:3", "cuda:3", "cuda:1", "cpu",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such GPU"):
        resolve_device("auto", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(resolve_device("auto", 3)) == "cuda"


@pytest.mark.campaign
def test_the_decoder_pass_is_made_by_the_first_process_alone(here: Place, tmp_path: Path) -> None:
    both = SHORT.model_copy(update={"decoder": DECODER})
    found = together(2, lambda processes: go(here, tmp_path / "out", processes, both))
    go(here, tmp_path / "alone", ALONE, both)
    assert found[1]["document"]["decoder"]["gate"] == found[0]["document"]["decoder"]["gate"]
    assert furthest(tmp_path / "alone", tmp_path / "out") <= 1e-4
