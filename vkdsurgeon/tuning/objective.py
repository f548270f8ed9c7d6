"""One model, loaded once, on which every trial runs what `unlearn` would run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.training.write_back import round_to_disk
from vkdsurgeon.tuning.label_free_metrics import LabelFreeMetrics
from vkdsurgeon.tuning.relearning_proxy import Attacker
from vkdsurgeon.tuning.splits import TrialSets
from vkdsurgeon.tuning.teacher_cache import RememberedTeacher
from vkdsurgeon.vision_pass.prepare import prepare, refit
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.stop_rule import Verdict

FORGET, RETAIN, ROBUST = "forget", "retain", "robust"
OBJECTIVES = (FORGET, RETAIN, ROBUST)


@dataclass(frozen=True)
class Measured:
    """The objective values of a trial, with their parts.

    Attributes:
        values: Objective -> value; less is better.
        parts: What the objectives are made of, by name.
        verdict: The stop rule's last verdict on the run itself; None of the model as given.
        selected_elements: Elements that the mask let move.
        seconds: Wall time of unlearning, measurement not included.
    """

    values: dict[str, float]
    parts: dict[str, float]
    verdict: Verdict | None
    selected_elements: int
    seconds: float


class Examiner(Protocol):
    """Asks questions of the whole model."""

    def __call__(self, stack: VisualStack) -> tuple[float, float, dict[str, float]]:
        """Objectives forget and retain, and what they are made of."""


class TrialRunner:
    """Tower and projector with the trials' images; between trials they are what the checkpoint says, bit by bit.

    Args:
        sets: From `splits.trial_sets`; its job's recipe is the one that trials start from.
        attacker: Simulated after every run.
        examiner: Measures forgetting and retention with the language model; None for the label-free metrics.
    """

    def __init__(self, sets: TrialSets, attacker: Attacker, examiner: Examiner | None = None) -> None:
        self.teacher = RememberedTeacher()
        self.prepared = replace(prepare(sets.job), look=self.teacher)
        self.stack = self.prepared.stack
        # The attacker trains more than the recipe that was planned for, and features are remembered over all trials.
        self.stack.training_bytes = None
        self._attacker, self._examiner = attacker, examiner
        self._seed = sets.job.seed
        self._original = {
            name: value.detach().to("cpu", copy=True) for name, value in self.stack.visual_parameters().items()
        }
        recipe = self.prepared.job.recipe
        budget = int(recipe.cache_gib * (1 << 30)) // 4
        measured = (SampleSet(self.stack, sets.forget, budget), SampleSet(self.stack, sets.keep, budget))
        reference = (self.prepared.forget, self.prepared.keep)
        self.label_free = LabelFreeMetrics(self.stack, reference, measured, self.teacher, recipe.micro_batch, budget)
        self.restore()

    def restore(self) -> None:
        """Bring back the weights of the checkpoint, bit by bit, and let all of them ask for gradients."""
        with torch.no_grad():
            for name, parameter in self.stack.visual_parameters().items():
                parameter.copy_(self._original[name])
                parameter.grad = None
                parameter.requires_grad_(parameter.is_floating_point())

    def untouched(self) -> Measured:
        """The objectives of the model as it is given."""
        with self._borrowed():
            return self._measure(None, 0, 0.0)

    def run(self, recipe: Recipe, listen: Listener) -> Measured:
        """Unlearn by a recipe, measure, and bring the weights back.

        Raises:
            SurgeryError: The loss is not finite.
            UserError: The sets do not suffice for the recipe.
        """
        with self._borrowed():
            started = time.monotonic()
            outcome = operate(refit(self.prepared, recipe), listen)
            seconds = time.monotonic() - started
            round_to_disk(self.stack, self._original)
            listen(Event.stage("measuring"))
            return self._measure(outcome.verdict, outcome.mask.count, seconds)

    def _measure(self, verdict: Verdict | None, selected: int, seconds: float) -> Measured:
        reading = self.label_free.read(self.stack)
        parts = {"certainty": reading.certainty, "kept_drift": reading.kept_drift}
        if reading.view_drift is not None:
            parts["view_drift"] = reading.view_drift
        values = {FORGET: reading.certainty, RETAIN: reading.kept_drift + (reading.view_drift or 0.0)}
        if self._examiner is not None:
            values[FORGET], values[RETAIN], details = self._examiner(self.stack)
            parts |= details
        recovered = self.label_free.recovery(self.stack, self._attacker, self._seed)
        values[ROBUST] = sum(recovered) / len(recovered)
        parts["certainty_after_attack"] = recovered[-1]
        return Measured(values, parts, verdict, selected, seconds)

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.restore()
