"""What was found when a patched checkpoint was held against its record, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.results.document import SchemaDocument
from vkdsurgeon.results.judged import Judged


class VerifiedFact(BaseModel):
    """One thing that was checked.

    Attributes:
        check: `record`, `files`, `weights`, `chain`, `base`, `unselected`, `set`, `replay` (only of runs that
            replayed earlier requests) or `signature`.
        outcome: `passed`, `failed`, or `skipped` if the input for this check was not given.
        told: The finding, in a sentence.
        names: Files, tensors or records that failed the check.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: Literal["record", "files", "weights", "chain", "base", "unselected", "set", "replay", "signature"]
    outcome: Literal["passed", "failed", "skipped"]
    told: str
    names: list[str] = Field(default_factory=list)


class VerifyResult(Judged, SchemaDocument):
    """What `vkdsurgeon verify` found.

    Attributes:
        model: The checkpoint's directory.
        record: The record that it was checked against.
        verdict: `failed` if any check failed.
        checks: All checks, including the skipped ones.
        weights_digest: Digest of the current weights.
        base_weights_digest: Digest of the base, according to the record.
        request: Id and date of the request, according to the record; None if not given.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/verify/1"

    model: str
    record: str
    verdict: Literal["passed", "failed"]
    checks: list[VerifiedFact]
    weights_digest: str
    base_weights_digest: str | None
    request: dict[str, str | None]

    @property
    def failures(self) -> list[str]:
        """One sentence per check that failed."""
        return [f"{each.check}: {each.told}" for each in self.checks if each.outcome == "failed"]
