"""What a comparison found, as a document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import Document
from vkdsurgeon.results.evaluation import SCHEMA_VERSION, Gated, GateOutcome, SetFacts


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Document):
    """One method with one seed. It is saved in a file of its own, so that an interrupted comparison can be continued.

    Attributes:
        key: Digest of everything that the numbers depend on.
        name: As in `methods`, or `base` or `gold`.
        seed: Seed of unlearning and attacks.
        recipe: The given settings; the method derives the others.
        values: Metric id -> value: shares, `PROTOCOL.SCOPE.relearn.ag` in points and `PROTOCOL.relearn.ag`, the largest
            over the scopes, `score`, `seconds`, `cpu_seconds`, `peak_memory_mib`, `tera_flops`.
        chance: Metric id -> what guessing among the options would give.
        diverged: Attacks, as `PROTOCOL.SCOPE`, whose loss became NaN or infinite; they have no AG.
        steps: Optimizer steps; 0 without training.
        elements_changed: Elements that differ from the base.
        weights_digest: Digest of the weights that were measured.
        met: Whether the method's own stop rule was met; None where it has none.
    """

    key: str
    name: str
    seed: int
    recipe: dict[str, object]
    values: dict[str, float | None]
    chance: dict[str, float]
    diverged: list[str]
    steps: int
    elements_changed: int
    weights_digest: str
    met: bool | None


class Row(_Document):
    """One line of the table.

    Attributes:
        name: As in `methods`, or `base` or `gold`.
        title: Name for people.
        seeds: Which seeds were run.
        values: Metric id -> mean over the seeds; None where it could not be measured.
        low: Smallest value over the seeds.
        high: Largest value over the seeds.
    """

    name: str
    title: str
    seeds: list[int]
    values: dict[str, float | None]
    low: dict[str, float]
    high: dict[str, float]


class AttackSettings(_Document):
    """The relearning attacks behind AG: every protocol with every scope; see `attacks.plan.RelearnPlan`."""

    protocols: list[str]
    scopes: list[str]
    fraction: float
    steps: int
    lr: float
    batch_size: int
    rank: int | None


class ComparisonResult(Gated, Document):
    """The result of `vkdsurgeon compare`.

    `score` = (1 - |forget - gold's|) * min(1, retain / base's) * mean over the protocols of
    (1 - max(0, AG - gold's) / 100), of the scope where AG exceeds gold's most, since an attacker chooses; only with a
    gold model. `chance` is what guessing among the options would give, by metric id. `shard` is `I/N` where these are
    the runs of one shard alone.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["comparison"] = "comparison"
    model_type: str
    device: str
    dtype: str
    threads: int
    sets: list[SetFacts]
    measured_on: dict[str, str]
    limit: int | None
    attack: AttackSettings
    chance: dict[str, float]
    rows: list[Row]
    cells: list[Cell]
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float
    shard: str | None = None
