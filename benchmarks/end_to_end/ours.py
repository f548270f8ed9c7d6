"""The project's own loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.end_to_end.case import LAYER, PEAK, Size
from benchmarks.end_to_end.stopwatch import Silent, Stopwatch
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet, teacher_features
from vkdsurgeon.model.frozen_layers import kept_activations, output_of
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.objective import run_once
from vkdsurgeon.vision_pass.trainer import DistillationTerm, train

_ALL_IN_MEMORY = 1 << 40


class Ours:
    """The project's loop, with the teacher's features cached."""

    def __init__(self, prepared: Prepared, masks: dict[str, Any], size: Size, mask: Any) -> None:
        self.stack, self.recipe = prepared.stack, prepared.job.recipe
        self.device = prepared.job.device
        self.parameters = self.stack.visual_parameters()
        self.start = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.masks = masks
        self.teacher_seconds = 0.0
        # The same images for loops that run all layers.
        self.whole: dict[str, SampleSet] = {}
        self.terms = [
            self._term("forget", prepared.forget, 1.0, size.forget),
            self._term("retain", prepared.keep, self.recipe.retain_weight, size.retain),
        ]
        self.optimizer = build_optimizer(
            self.parameters, mask, weight_decay=self.recipe.weight_decay, max_norm=self.recipe.clip
        )
        self.generator = torch.Generator().manual_seed(0)
        self.first_loss: float | None = None

    def _term(self, name: str, samples: SampleSet, weight: float, batch: int) -> DistillationTerm:
        everything = list(range(len(samples)))
        frozen = run_once(self.stack, self.recipe)
        output = output_of(self.stack, samples, frozen[-1])
        assert output is not None
        started = time.perf_counter()
        teacher = teacher_features(self.stack, samples, (LAYER, frozen[-1]), self.recipe.micro_batch, _ALL_IN_MEMORY)
        self.teacher_seconds += time.perf_counter() - started
        kept = kept_activations(self.stack, samples, frozen, tuple(output.shape), teacher, (LAYER,))
        assert kept is not None, "the frozen layers cannot be passed over"
        store = FeatureStore(_ALL_IN_MEMORY, leave=self.stack.training_bytes)
        for indices, _ in samples.batches(everything, self.recipe.micro_batch):
            for place, index in enumerate(indices):
                store.put(LAYER, index, teacher.one(LAYER, indices[place - 1]))
        self.whole[name] = SampleSet(self.stack, samples.samples, _ALL_IN_MEMORY)
        samples.pass_over(kept.entering)
        loss = feature_loss(self.recipe.distance)
        return DistillationTerm(name, samples, store, self.recipe.layers, loss, everything, everything, weight, batch)

    def steps(self, count: int, watch: Stopwatch) -> None:
        """Take some steps."""
        heard: list[float] = []
        terms = self.terms
        with contextlib.ExitStack() as changed:
            if not isinstance(watch, Silent):
                terms = [replace(term, loss=watch.timed("loss", term.loss)) for term in terms]
                self._instrument(changed, watch)
            train(
                self.stack, terms, self.optimizer, self.recipe, steps=count, peak=PEAK,
                generator=self.generator, listen=lambda step: heard.append(step.loss),
            )  # fmt: skip
        self.first_loss = heard[0] if self.first_loss is None else self.first_loss

    def _instrument(self, changed: contextlib.ExitStack, watch: Stopwatch) -> None:
        def batches(self: SampleSet, *arguments: Any) -> Iterator[Any]:
            source = original(self, *arguments)
            while True:
                with watch.stage("input"):
                    found = next(source, None)
                if found is None:
                    return
                yield found

        original = SampleSet.batches
        changed.enter_context(_replaced(SampleSet, "batches", batches))
        for owner, name, stage in (
            (self.stack, "features", "forward"),
            (FeatureStore, "get", "teacher"),
            (Tensor, "backward", "backward"),
            (self.optimizer, "step", "step"),
        ):
            changed.enter_context(_replaced(owner, name, watch.timed(stage, getattr(owner, name))))


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    # An instance that has the attribute from its class loses the replacement; everything else gets the original back.
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
