"""What a release came to, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.results.document import SchemaDocument
from vkdsurgeon.results.judged import Judged


class StageFacts(BaseModel):
    """One stage of a release.

    Attributes:
        name: Name of the stage.
        state: `done` now, or `kept` from an earlier run because its inputs are the same.
        missed: Gates that failed.
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
        metric: Id of the metric: the one that the first gate bounds, or the attack's main one.
        value: Value of the metric: points for `relearn.ag`, a share for others; None if it could not be measured.
        gold: The same for the gold model; None without one.
        bounds: The gates on it; empty without any.
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
        verdict: `release` if every gate holds and every attack has a gate or is out of scope by the plan; `accepted` if
            the plan accepts attacks without a gate; `unjudged` if it does not; `failed` if a gate failed.
        headline: The verdict in a sentence, with what attacks brought back.
        stages: Every stage, in order.
        attacks: What attacks brought back.
        missed: Gates that failed, with the stage.
        unjudged: Attacks without a gate.
        patched: The checkpoint.
        patch: The patch file.
        report: The report page.
        attestations: Statements in standard formats.
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
