"""The document of `vkdsurgeon tune`; no image, name or path of a set is in it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import SchemaDocument


class TrialRecord(BaseModel):
    """A finished trial; besides these fields there are its objective values and what they were made of.

    Attributes:
        trial: Its number; 0 is the recipe that the search started from.
        state: Whether it came to an end.
        reason: Why it failed.
        changes: What its recipe has other than the start recipe; `steps` as a multiple.
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
        inputs: What the trials depend on: digests, seed, recipe, space, objectives.
        objectives: What each objective is, in words, with the number of images or records.
        untouched: Objectives and parts of the model as it is given.
        default: The trial of the start recipe.
        front: Best forgetting first.
        pick: None without a rule.
        trials: In order.
        warnings: What to know.
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
