"""The loop and its schedule by hand, and events as JSON lines have them."""

from __future__ import annotations

import json

import pytest

from vkdsurgeon.errors import Diverged
from vkdsurgeon.training.events import Event, Step
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.schedule import Schedule


def test_a_schedule_rises_to_its_peak_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=10, warmup=0.2, decay=0.5, peak=3.0)
    sizes = [schedule.size(step) for step in range(10)]
    assert sizes == pytest.approx([1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 2.4, 1.8, 1.2, 0.6])
    assert [Schedule(3, 0.0, 0.0).size(step) for step in range(3)] == [1.0, 1.0, 1.0]


def test_steps_are_gathered_moved_and_told_in_turn_from_where_they_stopped() -> None:
    seen: list[object] = []

    def gather(step: int) -> tuple[float, dict[str, float]]:
        seen.append(("gather", step))
        return 1.0 / (step + 1), {"term": float(step)}

    def move(step: int, size: float) -> None:
        seen.append(("move", step, size))

    schedule = Schedule(4, 0.0, 0.5)
    told = []
    for step in run_steps(schedule, gather, move, diverged="", done=1):
        seen.append(step.step)
        told.append(step)
    assert seen == [
        ("gather", 1), ("move", 1, 1.0), 2, ("gather", 2), ("move", 2, 1.0), 3, ("gather", 3), ("move", 3, 0.5), 4,
    ]  # fmt: skip
    assert (told[0].loss, told[0].values) == (0.5, {"term": 1.0})
    assert told[-1].seconds_left == 0.0


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_ends_the_loop_before_the_step(loss: float) -> None:
    moved: list[int] = []
    steps = run_steps(
        Schedule(3, 0.0, 0.0),
        lambda step: (loss if step else 1.0, {}),
        lambda step, _: moved.append(step),
        diverged="{loss} at {step}",
    )
    with pytest.raises(Diverged, match=f"{loss} at 2"):
        list(steps)
    assert moved == [0]


def test_a_step_comes_back_from_one_level_of_names() -> None:
    step = Step(3, 8, 0.5, {"forget_loss": 0.25, "drift": 2.0}, 1.5)
    flat = json.loads(json.dumps(step.flat()))
    assert list(flat) == ["step", "steps", "loss", "forget_loss", "drift", "seconds_left"]
    assert Step.from_flat(flat) == step
    with pytest.raises(KeyError):
        Step.from_flat({"step": 1})


def test_an_event_is_the_mapping_that_a_line_of_json_says() -> None:
    step = Step(1, 2, 0.5, {"term": 0.25})
    assert dict(Event.stage("teacher")) == {"event": "stage", "stage": "teacher", "text": "teacher"}
    assert dict(Event.step(step, "decoder step")) == {"event": "decoder step", **step.flat(), "text": "step 1/2"}
    assert Event.step(step).subject is step
    assert Event("verdict", subject=step).get("loss") is None
