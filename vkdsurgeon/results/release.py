"""What a release came to, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.results.document import SchemaDocument
from vkdsurgeon.results.judged import Judged


class StageFacts(BaseModel):
    """One stage of a release.

    Attributes:
        name: What it is called.
        state: `done` now, or `kept` from an earlier run because its inputs are the same.
        missed: Bounds that it missed.
        seconds: Wall time; of a kept stage, of the run that did it.
        outputs: What it wrote, relative to the release's directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    state: Literal["done", "kept"]
    missed: list[str] = Field(default_factory=list)
    seconds: float
    outputs: list[str]


class AttackFacts(BaseModel):
    """How much one attack brought back.

    Attributes:
        attack: Its name, with the protocol.
        metric: Id of the metric.
        value: What was measured: points for relearning, a share for others; None where it could not be.
        gold: The same of the gold model; None without one.
        bounds: The bounds that judge it; empty where none does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str
    metric: str
    value: float | None
    gold: float | None
    bounds: list[str]


class ReleaseResult(Judged, SchemaDocument):
    """What `vkdsurgeon release` made and found.

    Attributes:
        out: The release's directory.
        verdict: `release` where every bound holds and every attack has one or is excepted by the plan's own word;
            `accepted` where attacks without a bound were accepted by the plan; `unjudged` where they were not; `failed`
            where a bound was missed.
        headline: The verdict in a sentence, with what attacks brought back.
        stages: Every stage, in order.
        attacks: What attacks brought back.
        missed: Bounds that were missed, with the stage.
        unjudged: Attacks that no bound judges.
        patched: The checkpoint.
        patch: The patch file.
        report: The page to read.
        attestations: Statements for others' tools.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/release/1"

    out: str
    verdict: Literal["release", "accepted", "unjudged", "failed"]
    headline: str
    stages: list[StageFacts]
    attacks: list[AttackFacts]
    missed: list[str]
    unjudged: list[str]
    patched: str
    patch: str
    report: str
    attestations: list[str]

    @property
    def failures(self) -> list[str]:
        """Why it must not go out."""
        if self.verdict == "failed":
            return self.missed
        return [self.headline] if self.verdict == "unjudged" else []
