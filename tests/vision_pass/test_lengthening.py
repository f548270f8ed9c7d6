"""A schedule gets more steps where its step size is about to fall and the loss still does."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.training.events import Event, Step, unheard
from vkdsurgeon.training.resume.journal import Journal
from vkdsurgeon.vision_pass import state as training_state
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import Outcome, operate
from vkdsurgeon.vision_pass.state import TrainingState, still_falls

# Levels of 36, 54 and 72 steps, and stretches of 11.
RECIPE = Recipe(
    steps=60, forget_batch=2, retain_batch=2, copies=0, stand_ins=1, tamper_weight=0.0, forget_reading=1.0,
    retain_reading=1.0, retain_drift=9.0,
)  # fmt: skip


def lengths(losses: list[float], recipe: Recipe = RECIPE) -> list[int]:
    """Numbers of steps of a schedule that goes by these losses: at first, and after each time that it grew."""
    trainee: Any = SimpleNamespace(values=dict)
    state = TrainingState(trainee, (), None, recipe)  # type: ignore[arg-type]
    state.begin()
    found, step = [state.schedule.steps], 0
    while step < state.schedule.steps:
        step += 1
        state.stepped(Step(step, state.schedule.steps, losses[min(step, len(losses)) - 1]))
        if state.lengthened():
            found.append(state.schedule.steps)
    return found


def noisy(step: int, fall: float) -> float:
    return (1 - fall * step / 60) * (1 + 0.05 * random.Random(step).random())


def test_steps_are_added_while_the_loss_falls_and_at_most_as_often_as_the_recipe_says() -> None:
    falling = [noisy(step, 0.6) for step in range(90)]
    assert lengths(falling) == [60, 90, 120]
    assert lengths(falling, RECIPE.model_copy(update={"extensions": 1})) == [60, 90]
    assert lengths(falling, RECIPE.model_copy(update={"extensions": 0})) == [60]
    assert lengths([noisy(min(step, 30), 0.6) for step in range(90)]) == [60, 90], "it falls no more"
    assert lengths([noisy(step, 0.0) for step in range(90)]) == [60]


def test_short_schedules_tell_nothing() -> None:
    assert lengths([1 / (step + 1) for step in range(40)], RECIPE.model_copy(update={"steps": 40})) == [40]


@given(st.lists(st.floats(0.9, 1.1), min_size=12, max_size=40), st.floats(1e-3, 1e3))
def test_what_falls_does_not_depend_on_units_and_equal_stretches_do_not_fall(losses: list[float], unit: float) -> None:
    assert not still_falls(losses, losses)
    half = [0.5 * loss for loss in losses]
    assert still_falls(losses, half)
    assert still_falls([unit * loss for loss in losses], [unit * loss for loss in half])
    assert not still_falls(half, losses)
    assert not still_falls(losses[:9], half)


def test_a_run_that_was_made_longer_goes_on_as_long(
    llava: Path, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_state, "still_falls", lambda before, after: len(before) == len(after) == 2)
    short = RECIPE.model_copy(update={"steps": 12})

    def run(listen: Any = unheard, journal: Journal | None = None) -> Outcome:
        forget, retain = (samples_of(read_records(sets[role], role=role), role=role) for role in ("forget", "retain"))
        return operate(prepare(Job(llava, forget, retain, [], short)), listen, journal)

    def journal(*, resume: bool) -> Journal:
        return Journal(tmp_path / "journal", resume=resume, apart_from={}, minutes=0, warn=print)

    steps: list[Event] = []
    whole = run(lambda event: steps.append(event) if event.kind == "step" else None)
    assert [event["steps"] for event in steps] == 7 * [12] + 4 * [18] + 13 * [24]
    assert len(whole.verdicts) == 1

    def interrupt(event: Event) -> None:
        if event.kind == "step" and event["step"] == 15:
            raise KeyboardInterrupt

    first = journal(resume=False)
    with pytest.raises(KeyboardInterrupt):
        run(interrupt, first)
    first.close()
    second = journal(resume=True)
    resumed = run(unheard, second)
    second.close()
    assert resumed.verdicts == whole.verdicts
    assert all((resumed.changes[name] == value).all() for name, value in whole.changes.items())
