"""What an attack found, as a document."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.evaluation.schema import SCHEMA_VERSION, GateOutcome, Metric, ModelFacts, SetFacts

RestoredPart: TypeAlias = Literal["visual", "tower", "projector"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RelearnSettings(_Document):
    """The attacker's recipe; AG means nothing without it."""

    protocol: Literal["people", "pairs"]
    scope: Literal["visual", "all"]
    fraction: float
    steps: int
    lr: float
    batch_size: int
    optimizer: str = "AdamW, no weight decay, gradient norm clipped at 1, linear decay to zero"
    seed: int
    limit: int | None
    device: str
    trained_parameters: int
    shown_records: int
    shown_subjects: int
    measured_records: int
    measured_subjects: int
    measured_on: Literal["forget", "heldout"]


class CurvePoint(_Document):
    """The measured part after so many steps."""

    model: str
    step: int
    loss: float | None
    values: dict[str, float | None]


class RelearnResult(_Document):
    """What `vkdsurgeon attack relearn` measured.

    `relearn.ag` is in points (0 to 100): the mean of after minus before over the metrics in `ag_over`.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["attack.relearn"] = "attack.relearn"
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: RelearnSettings
    ag_over: list[str]
    metrics: list[Metric]
    curve: list[CurvePoint]
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float


class RestoreSettings(_Document):
    """What was put back, and how much of it had been changed."""

    part: RestoredPart
    restored_elements: int
    differing_elements: int
    device: str
    seed: int
    limit: int | None


class RestoreResult(_Document):
    """What `vkdsurgeon attack restore` measured.

    `restore.before.*` is the model as given, `restore.after.*` the same language model behind the original's visual
    weights. `reference.` and `gold.restore.after.*` are those models as they are: the ceiling and what anybody guesses.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["attack.restore"] = "attack.restore"
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: RestoreSettings
    metrics: list[Metric]
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float
