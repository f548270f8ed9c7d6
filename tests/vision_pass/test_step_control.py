"""The measured step size: on a made-up model whose cost is known, and on towers that nobody tuned on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.towers import build_tower, unlearn
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.errors import Diverged
from vkdsurgeon.vision_pass.step_control import StepControl, probe_images


class Line:
    """Features that are one weight, times how sensitive the model is."""

    def __init__(self, sensitivity: float) -> None:
        self.weight, self.sensitivity = torch.zeros(1), sensitivity
        self.made: list[float] = []

    def step(self, size: float) -> None:
        self.made.append(size)
        self.weight = self.weight + size

    def look(self) -> list[Tensor]:
        return [(self.sensitivity * self.weight).reshape(1, 1, 1)]

    def put(self, values: dict[str, Tensor]) -> None:
        self.weight = values["w"].clone()

    def control(self, target: float = 0.004, bound: float = 1e9) -> StepControl:
        return StepControl(
            target=target,
            bound=bound,
            look=self.look,
            teacher=self.look(),
            variance=1.0,
            values=lambda: {"w": self.weight.clone()},
            put=self.put,  # type: ignore[arg-type]
        )


@given(sensitivity=st.floats(0.05, 300.0), target=st.sampled_from([1e-4, 0.004, 0.05]))
@settings(deadline=None)
def test_the_probe_finds_the_size_whatever_the_model_and_leaves_it_alone(sensitivity: float, target: float):
    line = Line(sensitivity)
    control = line.control(target)
    control.probe(line.step, 0.05)
    assert len(line.made) == 1, "one real step; the rest only looks"
    assert float(line.weight) == 0
    assert (control.size * sensitivity) ** 2 == pytest.approx(target, rel=0.6)
    assert control.record.found == control.size


def test_a_step_far_out_of_its_band_is_undone_and_the_size_halved():
    line = Line(1.0)
    control = line.control()
    control.size = 1.0
    assert not control.follow(line.step, 1.0)
    assert (float(line.weight), control.size, control.record.undone) == (0.0, 0.5, 1)


def test_the_size_follows_what_steps_cost():
    line = Line(1.0)
    control = line.control(target=0.01)
    for size, larger in ((0.05, True), (0.2, False)):
        control.size = size
        assert control.follow(line.step, 1.0)
        assert (control.size > size) is larger
    control.size = 0.1
    assert control.follow(line.step, 0.5), "what a step may cost follows the schedule"
    assert control.size == pytest.approx(0.1)


def test_steps_become_smaller_where_the_bound_leaves_less_room():
    line = Line(1.0)
    control = line.control(target=0.01, bound=0.25)
    for weight, larger in ((0.4, True), (0.4975, False)):
        line.weight, control.size = torch.tensor([weight]), 0.06
        assert control.follow(line.step, -1.0)
        assert (control.size > 0.06) is larger


def test_no_step_takes_the_drift_past_its_bound():
    line = Line(1.0)
    control = line.control(target=0.01, bound=0.25)
    control.size = 0.1
    for _ in range(60):
        control.follow(line.step, 1.0)
        assert float(line.weight) ** 2 <= 0.25 + 1e-6
    assert control.record.undone > 0


def test_at_the_bound_retention_weighs_more_and_steps_stay_as_large():
    line = Line(1.0)
    control = line.control(target=0.01, bound=0.25)
    line.weight, control.size = torch.tensor([0.45]), 0.1
    assert not control.follow(line.step, 1.0)
    assert not control.follow(line.step, 1.0)
    assert (control.size, control.pressure) == (0.1, 4.0)
    for expected in (3.2, 2.56, 2.048):
        assert control.follow(line.step, -1.0)
        assert control.pressure == pytest.approx(expected)
    assert control.record.pressure == 4.0
    assert control.size == pytest.approx(0.1)


def test_where_retention_failed_it_weighs_more_from_then_on():
    line = Line(1.0)
    control = line.control(target=0.01, bound=0.25)
    control.size = 0.1
    control.favour_retention(2)
    assert control.follow(line.step, 1.0)
    assert (control.pressure, control.least_pressure) == (4.0, 4.0)


def test_retention_that_weighs_as_much_as_it_may_makes_steps_smaller():
    line = Line(1.0)
    control = line.control(target=0.01, bound=0.25)
    line.weight, control.size = torch.tensor([0.45]), 0.1
    for _ in range(7):
        control.follow(line.step, 1.0)
    assert (control.pressure, control.size) == (64.0, 0.05)


def test_features_that_are_not_finite_at_any_size_end_the_run():
    line = Line(float("nan"))
    with pytest.raises(Diverged, match="no step size keeps the features finite"):
        line.control().probe(line.step, 0.05)


def test_the_probe_keeps_to_what_it_measured():
    class Cliff(Line):
        def look(self) -> list[Tensor]:
            return [torch.where(self.weight.abs() < 0.01, self.weight, torch.nan).reshape(1, 1, 1)]

    line = Cliff(1.0)
    control = line.control(target=0.01)
    control.probe(line.step, 0.005)
    assert control.record.cost == pytest.approx(control.record.found**2, rel=1e-3)


def test_a_control_goes_on_from_its_state():
    line = Line(1.0)
    control = line.control()
    control.probe(line.step, 0.05)
    control.follow(line.step, 0.5)
    again = line.control()
    again.load_state_dict(control.state_dict())
    assert (again.size, again.pressure, again.record) == (control.size, control.pressure, control.record)


@given(count=st.integers(1, 500))
def test_probe_images_are_few_and_spread(count: int):
    chosen = probe_images(count)
    assert 1 <= len(chosen) <= 16
    assert chosen[0] == 0
    assert chosen[-1] < count
    assert len(set(chosen)) == len(chosen)


def test_one_rule_trains_towers_of_any_width(tmp_path: Path):
    unpack(tmp_path / "people")
    recipe = Recipe(steps=10, extensions=0, forget_batch=8, retain_batch=8, step_drift=0.004, copies=1)
    for tower in ("random-64x2", "random-256x2"):
        row = unlearn(build_tower(tower, tmp_path), tmp_path / "people" / "records", recipe, people=6)
        assert row["step_size"]["cost"] == pytest.approx(recipe.step_drift, rel=0.6)
        assert row["most_drift"] < recipe.retain_drift
        assert 0 < row["verdict"]["reach"] < 2
