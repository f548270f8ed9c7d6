"""The settings that all attacks share: models and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.evaluation.models import Measurement
from vkdsurgeon.evaluation.score import Scoring
from vkdsurgeon.evaluation.sets import drawn_facts
from vkdsurgeon.results.evaluation import SetFacts


@dataclass(frozen=True, kw_only=True)
class Attack(Measurement):
    """What every attack takes.

    Attributes:
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, if the wrong ones are found.
    """

    tower: str | None = None
    projector: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Target(Attack):
    """What an attack takes that is measured by answers.

    Attributes:
        forget: Questions on what was to be forgotten.
        retain: What utility is measured on.
        limit: At most so many questions per set, drawn per task; None for all.
        seed: Seed for all random choices.
        scoring: How answers are obtained.
        dtype: Precision, as in `load_model`.
    """

    forget: NamedSet
    retain: NamedSet | None = None
    limit: int | None = None
    seed: int = 0
    scoring: Scoring = field(default_factory=Scoring)
    dtype: str = "auto"

    def draw(self) -> dict[str, list[Record]]:
        """The questions that are asked, by part of the metric ids: empty for the forget set, `retain.` for the other.

        A set that was not given is left out.
        """
        return {part: sample(whole.records, self.limit, self.seed) for part, whole in self._wholes()}

    def facts(self, parts: Mapping[str, Sequence[Record]]) -> list[SetFacts]:
        """The description of the sets in a result; `draw` gives the parts."""
        return drawn_facts(((whole, parts[part]) for part, whole in self._wholes()), self.salt)

    def _wholes(self) -> list[tuple[str, NamedSet]]:
        return [("", self.forget), *([] if self.retain is None else [("retain.", self.retain)])]

    def asking(self, device: str) -> dict[str, Any]:
        """The settings that every document of an attack on answers tells."""
        return {
            "device": device,
            "seed": self.seed,
            "limit": self.limit,
            "batch_size": self.scoring.batch_size,
            "length_normalised": self.scoring.length_normalised,
            "max_new_tokens": self.scoring.max_new_tokens,
        }
