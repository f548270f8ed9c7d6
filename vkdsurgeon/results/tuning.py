"""The document of `vkdsurgeon tune`; no image, name or path of a set is in it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import SchemaDocument


class TrialRecord(BaseModel):
    """A finished trial. Its objective values and their parts are further fields.

    Attributes:
        trial: Its number; 0 is the recipe that the search started from.
        state: Whether it finished or failed.
        reason: Why it failed.
        changes: Recipe keys that differ from the start recipe; `steps` as a multiple.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    trial: int
    state: Literal["complete", "failed"]
    reason: str | None
    changes: dict[str, Any]


class FrontRecord(TrialRecord):
    """A trial that no other one beats in every objective, with the file of its recipe, relative to the output."""

    file: str


class PickRecord(BaseModel):
    """What the rule of `pick` took; `trial` and `file` are None where nothing satisfies it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    satisfied: bool
    trial: int | None
    file: str | None


class TuneDocument(SchemaDocument):
    """What `vkdsurgeon tune` found, as `tune.json` and `tune --json` hold it.

    Attributes:
        versions: The libraries that it ran with.
        inputs: All inputs of the trials: digests, seed, recipe, space, objectives.
        objectives: Description of each objective, with the number of images or records.
        untouched: Objectives and their parts for the model before unlearning.
        default: The trial of the start recipe.
        front: Best forgetting first.
        pick: None without a rule.
        trials: In order.
        warnings: Warnings.
        seconds: Wall time of the run.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/tune/1"

    versions: dict[str, str | None]
    inputs: dict[str, Any]
    objectives: list[dict[str, Any]]
    untouched: dict[str, Any]
    default: TrialRecord
    front: list[FrontRecord]
    pick: PickRecord | None
    trials: list[TrialRecord]
    warnings: list[str]
    seconds: float
