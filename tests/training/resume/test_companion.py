"""What takes part in training beside the student is saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_set
from tests.training.resume.runs import RECIPE
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.resume.journal import Journal
from vkdsurgeon.training.resume.state import Trainee
from vkdsurgeon.training.resume.trees import put_together, taken_apart
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.objective import make_terms
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.state import VISUAL, TrainingState
from vkdsurgeon.vision_pass.trainer import train

CPU = torch.device("cpu")
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
)  # fmt: skip


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return bool(torch.equal(left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)))
def test_any_state_comes_back(tree: Any) -> None:
    rest, tensors = taken_apart(tree, "x ")
    assert all(name.startswith("x ") for name in tensors)
    assert equal(tree, put_together(rest, tensors, CPU))


def test_what_is_no_state_is_refused() -> None:
    for tree in ({"a": object()}, {1: 2}, [{1, 2}]):
        with pytest.raises(TypeError):
            taken_apart(tree, "")


class Echo:
    """Carries a sum over all steps so far."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {"steps": 0, "moments": {"mean": (torch.zeros(3), torch.zeros(1))}}

    def hear(self, step: Step) -> None:
        self.sums["steps"] += 1
        self.sums["moments"]["mean"][0].add_(step.loss)

    def state_dict(self) -> dict[str, Any]:
        return self.sums

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums = dict(state)


def test_a_companion_is_where_it_was(llava: Path, tmp_path: Path) -> None:
    def student() -> tuple[TrainingState, Any]:
        sets = {
            role: samples_of(read_records(file, role=role), role=role)
            for role, file in (("forget", forget), ("retain", retain))
        }
        prepared = prepare(Job(llava, sets["forget"], sets["retain"], [], RECIPE))
        generator = torch.Generator().manual_seed(0)
        terms = make_terms(prepared.stack, prepared.forget, prepared.keep, RECIPE, generator).both
        mask = choose_mask(prepared.stack, terms[0], RECIPE, generator)
        parameters = prepared.stack.visual_parameters()
        trainee = Trainee(parameters, mask, build_optimizer(parameters, mask, max_norm=RECIPE.clip))
        return TrainingState(trainee, terms, generator, RECIPE, companions={"echo": Echo()}), prepared.stack

    def steps(state: TrainingState, stack: Any, number: int) -> None:
        def heard(step: Step) -> None:
            state.stepped(step)
            echo = state.companions["echo"]
            assert isinstance(echo, Echo)
            echo.hear(step)

        train(
            stack, state.terms, state.trainee.optimizer, RECIPE, steps=number, peak=0.5,
            generator=state.generator, listen=heard, samplers=state.samplers, done=state.step,
        )  # fmt: skip

    forget, retain = (write_set(tmp_path, name, range(first, first + 4)) for name, first in (("f", 0), ("r", 9)))
    whole, stack = student()
    whole.begin()
    steps(whole, stack, 3)
    place = {"resume": True, "apart_from": {}, "minutes": 0.0, "warn": print}
    journal = Journal(tmp_path / "journal", **place)  # type: ignore[arg-type]
    assert journal.save(VISUAL, whole.snapshot())
    journal.close()
    again, stack_again = student()
    kept = Journal(tmp_path / "journal", **place).kept(VISUAL)  # type: ignore[arg-type]
    assert kept is not None
    again.restore(kept)
    for state, tower in ((whole, stack), (again, stack_again)):
        state.begin()
        steps(state, tower, 6)
    first, second = whole.companions["echo"], again.companions["echo"]
    assert isinstance(first, Echo)
    assert isinstance(second, Echo)
    assert second.sums["steps"] == 6
    assert equal(first.sums, second.sums)
    assert equal(whole.trainee.values(), again.trainee.values())
