"""What a search found, as a document; no image, name or path of a set is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.results.document import RunDocument
from vkdsurgeon.results.judged import Judged
from vkdsurgeon.results.tuning import TuneDocument
from vkdsurgeon.tuning.objective import OBJECTIVES
from vkdsurgeon.tuning.pick import Candidate
from vkdsurgeon.tuning.space import Space


@dataclass(frozen=True)
class Attempt:
    """A finished trial.

    Attributes:
        number: Its place among the finished ones; 0 is the recipe that the search started from.
        changes: Recipe keys that differ from that recipe; `steps` as a multiple of the derived number.
        recipe: Its recipe.
        values: Objective -> value; empty where it failed.
        facts: Parts of the objectives, verdict of the stop rule, seconds, selected elements.
        reason: Why it failed.
    """

    number: int
    changes: dict[str, Any]
    recipe: Recipe
    values: dict[str, float]
    facts: dict[str, Any]
    reason: str | None = None

    @property
    def candidate(self) -> Candidate:
        """The trial as picking rules see it."""
        parts = {**self.facts.get("parts", {}), "seconds": self.facts.get("seconds", 0.0)}
        met = {"stop_rule": float(self.facts["stop_rule"]["met"])} if "stop_rule" in self.facts else {}
        return Candidate(self.number, {**parts, **met, **self.values})

    def as_dict(self) -> dict[str, Any]:
        """For the document."""
        return {
            "trial": self.number,
            "state": "failed" if self.reason else "complete",
            "reason": self.reason,
            "changes": self.changes,
            **self.values,
            **self.facts,
        }


class TuneResult(Judged, RunDocument):
    """The result of `vkdsurgeon tune`.

    Attributes:
        inputs: All inputs of the trials: digests, seed, recipe, space, objectives.
        objectives: Objective -> what it is, in words, with the number of images or records.
        untouched: Objectives and their parts for the model before unlearning.
        attempts: Finished trials in order.
        front: Those that no other one beats in every objective, best forgetting first.
        rule: The rule given as `pick`.
        picked: The recipe that the rule picked.
        warnings: Warnings.
        seconds: Wall time of this run.
    """

    inputs: Mapping[str, Any]
    space: Space
    objectives: Mapping[str, Mapping[str, Any]]
    untouched: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    front: tuple[Attempt, ...]
    rule: str | None
    picked: Attempt | None
    warnings: tuple[str, ...]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """A sentence saying that no member of the front satisfies the rule, where one was asked for."""
        if self.rule is None or self.picked is not None:
            return []
        return [f"`pick` {self.rule!r}: none of {len(self.front)} members of the front satisfies it"]

    @property
    def default(self) -> Attempt:
        """The recipe that the search started from."""
        return self.attempts[0]

    def as_dict(self) -> dict[str, Any]:
        """The document, for `--json` and `tune.json`; `TuneDocument` reads it back."""
        return {
            "schema": TuneDocument.SCHEMA,
            "versions": {**versions(), "optuna": _optuna()},
            "inputs": dict(self.inputs),
            "objectives": [{"name": name, **self.objectives[name]} for name in OBJECTIVES],
            "untouched": dict(self.untouched),
            "default": self.default.as_dict(),
            "front": [
                {"file": front_file(rank), **attempt.as_dict()} for rank, attempt in enumerate(self.front, start=1)
            ],
            "pick": None if self.rule is None else self._pick(),
            "trials": [attempt.as_dict() for attempt in self.attempts],
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 1),
        }

    def _pick(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "satisfied": self.picked is not None,
            "trial": None if self.picked is None else self.picked.number,
            "file": None if self.picked is None else "picked.yaml",
        }


def front_file(rank: int) -> str:
    """The path of a front member's recipe, relative to the output."""
    return f"front/{rank:02d}.yaml"


def dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether one is no worse in any objective and better in one."""
    pairs = [(one[name], other[name]) for name in OBJECTIVES]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def pareto_front(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """The attempts that none dominates, each point once, best forgetting first, then retention."""
    alive = [attempt for attempt in attempts if attempt.reason is None]
    best = [each for each in alive if not any(dominates(other.values, each.values) for other in alive)]
    unique = {tuple(each.values[name] for name in OBJECTIVES): each for each in reversed(best)}
    return tuple(unique[point] for point in sorted(unique))


def _optuna() -> str:
    import optuna

    return str(optuna.__version__)
