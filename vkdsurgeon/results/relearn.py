"""What an attack found, as a document."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.config.relearn import RelearnPlan, RelearnProtocol, RelearnScope
from vkdsurgeon.results.document import Document
from vkdsurgeon.results.evaluation import SCHEMA_VERSION, GateOutcome, Measured, Metric, ModelFacts, SetFacts

RestoredPart: TypeAlias = Literal["visual", "tower", "projector"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RelearnSettings(_Document):
    """The settings of the attack, without which AG cannot be interpreted. Numbers of records are those of the first
    seed."""

    protocol: RelearnProtocol
    scope: RelearnScope
    fraction: float
    steps: int
    lr: float
    batch_size: int
    optimizer: str = "AdamW, no weight decay, gradient norm clipped at 1, linear decay to zero"
    seed: int
    seeds: list[int] = []
    rank: int | None = None
    limit: int | None
    device: str
    trained_parameters: int
    shown_records: int
    shown_subjects: int
    measured_records: int
    measured_subjects: int
    measured_on: Literal["forget", "heldout"]


class CurvePoint(_Document):
    """The measured part after so many steps; the mean over the seeds where there are several."""

    model: str
    step: int
    loss: float | None
    values: dict[str, float | None]


class Recovery(_Document):
    """How soon the knowledge was back.

    Attributes:
        model: `model` or `gold`.
        share: The level is chance plus this share of what `full` has above chance.
        of: What `full` is: the reference on the same questions, or every answer right.
        level: The score that had to be reached, the mean over the metrics in `ag_over`, from 0 to 1.
        steps: Per seed the first measured step at that level; None where it was never reached.
        within: Steps of the attack.
    """

    model: str
    share: float
    of: Literal["reference", "perfect"]
    level: float
    steps: list[int | None]
    within: int


class SeedOutcome(_Document):
    """One seed of an attack: gains in points, and what was shown and measured.

    An attack `diverged` if its loss became NaN or infinite. Its gain cannot be measured and is None.
    """

    seed: int
    ag: float | None
    gold_ag: float | None
    shown_records: int
    measured_records: int
    diverged: bool = False
    gold_diverged: bool = False


class RelearnCase(_Document):
    """One of several attacks in a document; its metrics stand under `relearn.ID.` instead of `relearn.`."""

    id: str
    settings: RelearnSettings
    ag_over: list[str]
    curve: list[CurvePoint]
    recovery: list[Recovery]
    seeds: list[SeedOutcome]
    diverged: bool = False


class RelearnResult(Measured, Document):
    """The result of `vkdsurgeon attack relearn`.

    `relearn.ag` is in points (0 to 100): the mean of after minus before over the metrics in `ag_over`. With several
    attacks, each is one of `cases`, and `settings` are those of all of them. An attack that `diverged` with some seed
    has no AG; of a document with several attacks it says whether any did.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["attack.relearn"] = "attack.relearn"
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: RelearnSettings | RelearnPlan
    ag_over: list[str] = Field(default_factory=list)
    metrics: list[Metric]
    curve: list[CurvePoint] = Field(default_factory=list)
    recovery: list[Recovery] = Field(default_factory=list)
    seeds: list[SeedOutcome] = Field(default_factory=list)
    cases: list[RelearnCase] = Field(default_factory=list)
    diverged: bool = False
    plan: RelearnPlan | None = None
    plan_digest: str | None = None
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float


class RestoreSettings(_Document):
    """The part that was put back, and how much of it unlearning had changed."""

    part: RestoredPart
    restored_elements: int
    differing_elements: int
    device: str
    seed: int
    limit: int | None


class RestoreResult(Measured, Document):
    """The result of `vkdsurgeon attack restore`.

    `restore.before.*` is the model as given, `restore.after.*` the same language model behind the original's visual
    weights. `reference.restore.after.*` and `gold.restore.after.*` are those models unchanged: the upper limit, and the
    level without any knowledge.
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
