"""Trials on a real tiny checkpoint: what they measure, and that nothing of them stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import write_set
from tests.tuning.conftest import QUICK
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.events import unheard
from vkdsurgeon.tuning.objective import FORGET, RETAIN, ROBUST, TrialRunner
from vkdsurgeon.tuning.relearning_proxy import Attacker
from vkdsurgeon.tuning.splits import trial_sets
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.teacher import visual_digest

STRONG = QUICK.model_copy(update={"steps": 40, "density": 0.5})


class Snapshot:
    """Looks at the weights that a trial left, in place of a model that answers."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def __call__(self, stack: VisualStack) -> tuple[float, float, dict[str, float]]:
        self.weights = stack.to_disk(dict(stack.visual_parameters()))
        return 0.5, 0.25, {"retain_rate": 0.75}


def test_weights_come_back_bit_by_bit(job: Job, llava: Path):
    runner = TrialRunner(trial_sets(job), Attacker(steps=2))
    original = visual_digest(load_visual_stack(llava, device="cpu"))
    wanted = {name: value.requires_grad for name, value in runner.stack.visual_parameters().items()}
    assert visual_digest(runner.stack) == original
    before = runner.untouched()
    runner.run(QUICK.model_copy(update={"depth": "projector"}), unheard)
    assert visual_digest(runner.stack) == original
    with pytest.raises(SurgeryError, match=r"became (nan|inf)"):
        runner.run(QUICK.model_copy(update={"step_size": 1e30}), unheard)
    assert visual_digest(runner.stack) == original
    assert runner.untouched() == before
    assert {name: value.requires_grad for name, value in runner.stack.visual_parameters().items()} == wanted
    assert all(value.grad is None for value in runner.stack.visual_parameters().values())


def test_a_trial_does_what_unlearning_does_whatever_ran_before(job: Job):
    seen = Snapshot()
    sets = trial_sets(job)
    runner = TrialRunner(sets, Attacker(steps=1), seen)
    first = runner.run(QUICK, unheard)
    runner.run(STRONG, unheard)
    again = runner.run(QUICK, unheard)
    expected = operate(prepare(sets.job), unheard).changes
    assert replace(again, seconds=first.seconds) == first
    assert all(torch.equal(seen.weights[name], value) for name, value in expected.items())
    assert (first.values[FORGET], first.values[RETAIN], first.parts["retain_rate"]) == (0.5, 0.25, 0.75)


def test_objectives_tell_forgetting_from_nothing_and_attack_from_rest(job: Job):
    runner = TrialRunner(trial_sets(job), Attacker(steps=6, step_size=0.5))
    untouched = runner.untouched()
    assert untouched.values[FORGET] >= 0.9
    assert untouched.values[RETAIN] == 0
    forgotten = runner.run(STRONG, unheard)
    assert forgotten.values[FORGET] < 0.5 * untouched.values[FORGET]
    assert forgotten.values[RETAIN] > 0
    assert forgotten.values[ROBUST] > forgotten.values[FORGET]
    nothing = runner.run(STRONG.model_copy(update={"step_size": 1e-6}), unheard)
    assert nothing.values[FORGET] == pytest.approx(untouched.values[FORGET], abs=0.01)
    assert nothing.values[RETAIN] < 1e-3


def test_the_teacher_is_asked_once_a_set(job: Job):
    runner = TrialRunner(trial_sets(job), Attacker(steps=1))
    assert runner.teacher.passes == 4, "what trials train on and what they are measured on"
    runner.run(QUICK, unheard)
    # Trials look at copies of their own besides.
    passes = runner.teacher.passes
    assert passes == 6
    runner.run(QUICK, unheard)
    assert runner.teacher.passes == passes
    runner.run(QUICK.model_copy(update={"retain_layers": {"layer.0": 1.0, "projector": 1.0}}), unheard)
    assert runner.teacher.passes == passes + 1, "a layer that was never looked at"
    copied = QUICK.model_copy(update={"copies": 1, "steps": 12})
    runner.run(copied, unheard)
    after = runner.teacher.passes
    assert after > passes + 1, "copies are other images"
    runner.run(copied.model_copy(update={"retain_weight": 1.1}), unheard)
    assert runner.teacher.passes == after, "and the same ones in every trial"


def test_whole_subjects_are_held_out_where_there_are_many(job: Job, tmp_path: Path):
    many = samples_of(read_records(write_set(tmp_path, "many", range(30, 42), views=2), role="retain"), role="retain")
    sets = trial_sets(replace(job, retain=many))
    trained = {sample.subject for sample in sets.job.retain}
    assert sets.keep_held_out == "subjects"
    assert {sample.subject for sample in sets.keep}.isdisjoint(trained)
    assert len(trained) == 9
    assert len(sets.keep) + len(sets.job.retain) == len(many)
    assert sets.forget_held_out
    assert len(sets.forget) == 4
    assert {sample.digest for sample in sets.forget}.isdisjoint(sample.digest for sample in sets.job.forget)


def test_without_images_to_spare_what_was_trained_on_is_measured_and_told(job: Job):
    few = [sample for sample in job.forget if sample.path.stem.endswith(("-0", "-1"))]
    sets = trial_sets(replace(job, forget=few, retain=[], generic=job.retain[:6]))
    assert not sets.forget_held_out
    assert [*sets.forget] == few == [*sets.job.forget]
    assert sets.keep_held_out == "pictures"
    assert sets.job.retain == []
    assert len(sets.job.generic) == 5
