"""The document of any `vkdsurgeon attack`: the part that is read back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

from vkdsurgeon.results.evaluation import GateOutcome, Metric, ModelFacts, SetFacts
from vkdsurgeon.results.relearn import CurvePoint, Recovery, RelearnCase, RelearnSettings


class AttackDocument(BaseModel, frozen=True):
    """The document of any `vkdsurgeon attack`: metrics before and after, beside gold where there is one."""

    schema_version: int
    kind: str
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: dict[str, Any]
    metrics: list[Metric]
    curve: list[CurvePoint] = []
    recovery: list[Recovery] = []
    cases: list[RelearnCase] = []
    diverged: bool = False
    plan_digest: str | None = None
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float

    @model_validator(mode="after")
    def _relearning_says_how(self) -> AttackDocument:
        if self.attack == "relearn" and not self.cases:
            RelearnSettings.model_validate(self.settings)
        return self

    @property
    def attack(self) -> str:
        """Name of the attack, which starts its metric ids."""
        return self.kind.removeprefix("attack.")

    @property
    def parts(self) -> list[AttackDocument]:
        """The attacks that the document tells of, each as if it were told alone."""
        if not self.cases:
            return [self]
        parts = []
        for case in self.cases:
            own, plain = f"{self.attack}.{case.id}.", f"{self.attack}."
            metrics = [
                metric.model_copy(update={"id": metric.id.replace(own, plain, 1)})
                for metric in self.metrics
                if metric.id.startswith(own) or metric.id.partition(".")[2].startswith(own)
            ]
            alone = {
                "settings": case.settings.model_dump(),
                "metrics": metrics,
                "curve": case.curve,
                "recovery": case.recovery,
                "diverged": case.diverged,
                "cases": [],
            }
            parts.append(self.model_copy(update=alone))
        return parts
