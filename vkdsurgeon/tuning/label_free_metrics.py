"""The objectives of trials: label-free, on held-out images, and independent of the recipe.

A run's own forget loss ratio says how far it came towards its own target, so it cannot compare recipes with different
targets: a recipe that aims next to the person reaches its aim at once. Here nothing depends on the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet, TeacherPass, teacher_features
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.tuning.identity_certainty import IdentityCertainty
from vkdsurgeon.tuning.relearning_proxy import Attacker


@dataclass(frozen=True)
class Reading:
    """The label-free metrics of one student.

    Attributes:
        certainty: Probability that the identity reader gives the right subject on forget images; the most of all
            outputs.
        kept_drift: |h - t|^2 / |t|^2 on kept images, mean over images and outputs.
        view_drift: The same on forget images along the directions of views; None where none are known.
    """

    certainty: float
    kept_drift: float
    view_drift: float | None


class LabelFreeMetrics:
    """Readers of identity and the original features, at every output that the language model reads.

    Args:
        stack: At the weights of the checkpoint.
        reference: The trials' forget and kept images, which centroids are made from and the attacker shows.
        measured: The forget and kept images to measure on.
        look: Runs the teacher.
        micro_batch: Most images at once.
        budget_bytes: Most bytes of features of one set to hold in memory.
    """

    def __init__(
        self,
        stack: VisualStack,
        reference: tuple[SampleSet, SampleSet],
        measured: tuple[SampleSet, SampleSet],
        look: TeacherPass,
        micro_batch: int,
        budget_bytes: int,
    ) -> None:
        self._reference, self._measured = reference, measured
        self._micro_batch, self._budget = micro_batch, budget_bytes
        self._layers = stack.outputs
        forget, keep = (look(stack, samples, self._layers, micro_batch, budget_bytes) for samples in reference)
        self._originals = forget
        self._teacher = [look(stack, samples, self._layers, micro_batch, budget_bytes) for samples in measured]
        self._readers = {
            layer: IdentityCertainty(
                forget.all(layer),
                reference[0].subjects,
                keep.all(layer),
                reference[1].subjects,
                self._teacher[0].all(layer),
                measured[0].subjects,
            )
            for layer in self._layers
        }
        self.identities = max(reader.identities for reader in self._readers.values())

    def read(self, stack: VisualStack) -> Reading:
        """Measure a student's label-free metrics."""
        forget, keep = (self._features(stack, samples) for samples in self._measured)
        views = [
            reader.view_drift(self._teacher[0].all(layer), forget.all(layer)) for layer, reader in self._readers.items()
        ]
        known = [drift for drift in views if drift is not None]
        return Reading(
            certainty=self._certainty(forget),
            kept_drift=fmean(_drift(self._teacher[1].all(layer), keep.all(layer)) for layer in self._layers),
            view_drift=fmean(known) if known else None,
        )

    def recovery(self, stack: VisualStack, attacker: Attacker, seed: int) -> tuple[float, ...]:
        """Attack a student, in place.

        Returns:
            The reader's certainty after each of the attacker's steps.
        """
        taken = attacker.attack(stack, self._reference[0], self._originals, self._micro_batch, seed)
        return tuple(self._certainty(self._features(stack, self._measured[0])) for _ in taken)

    def _certainty(self, features: FeatureStore) -> float:
        return max(reader.certainty(features.all(layer)) for layer, reader in self._readers.items())

    def _features(self, stack: VisualStack, samples: SampleSet) -> FeatureStore:
        return teacher_features(stack, samples, self._layers, self._micro_batch, self._budget)


def _drift(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> float:
    return fmean(
        float((h.float() - t.float()).square().sum() / t.float().square().sum().clamp_min(1e-12))
        for t, h in zip(teacher, student, strict=True)
    )
