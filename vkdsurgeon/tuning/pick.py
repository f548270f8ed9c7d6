"""Rules that pick one recipe from the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.objective import FORGET, OBJECTIVES, RETAIN, ROBUST

STOP_RULE = "stop_rule"
FORGET_RATE, _RETAIN_RATE, _GENERAL_RATE = "forget_rate", "retain_rate", "general_rate"
# More of these is better, less of everything else.
_MORE_IS_BETTER = frozenset({_RETAIN_RATE, _GENERAL_RATE})


@dataclass(frozen=True)
class Candidate:
    """A member of the front.

    Attributes:
        trial: Its number.
        values: Objectives, their parts, `seconds`, and `stop_rule`: 1 where the run met it, else 0.
    """

    trial: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """The best of one value among the members that lose nothing of others.

    Attributes:
        name: As `pick` takes it.
        best: The value that is to be best; None for the knee.
        no_worse: Values in which a member must be at least as good as the recipe that the search started from.
    """

    name: str
    best: str | None
    no_worse: tuple[str, ...] = ()

    def pick(self, front: Sequence[Candidate], default: Mapping[str, float]) -> Candidate | None:
        """The member that the rule takes, None where none satisfies it.

        Members whose run met the stop rule go first: with the others, `unlearn` would end with status 3.

        Args:
            front: The candidates.
            default: The values of the recipe that the search started from, where they are below chance the chance;
                empty where it failed.
        """
        fit = [member for member in front if all(_holds(name, member.values, default) for name in self.no_worse)]
        fit = [member for member in fit if member.values.get(STOP_RULE)] or fit
        if self.best is None:
            return _knee(fit, front) if fit else None
        best = self.best
        # Of equals the one that is better otherwise.
        return min(
            (member for member in fit if best in member.values),
            key=lambda member: (_cost(best, member.values), *(member.values[other] for other in OBJECTIVES)),
            default=None,
        )


KNEE, GENERAL = "knee", "general"
RULES = {
    rule.name: rule
    for rule in (
        Rule(KNEE, None),
        Rule(FORGET, FORGET, no_worse=(RETAIN,)),
        Rule(RETAIN, RETAIN, no_worse=(FORGET,)),
        Rule(ROBUST, ROBUST, no_worse=(FORGET, RETAIN)),
        Rule(GENERAL, _GENERAL_RATE, no_worse=(FORGET_RATE, _RETAIN_RATE)),
    )
}


def rule_named(name: str, *, rates: bool) -> Rule:
    """The rule that `pick` names.

    Args:
        name: One of `RULES`.
        rates: Whether rates of answers are measured.

    Raises:
        UserError: There is no such rule, or it needs what is not measured.
    """
    rule = RULES.get(name.strip())
    if rule is None:
        raise UserError("unknown rule for `pick`", where="`pick`", value=name, expected=f"one of {', '.join(RULES)}")
    if rule.name == GENERAL and not rates:
        raise UserError(
            f"the rule needs a value that is not measured: {rule.best}",
            where="`pick`",
            value=name,
            remedy="give `validation_forget` and `validation_retain`",
        )
    return rule


def _cost(name: str, values: Mapping[str, float]) -> float:
    return -values[name] if name in _MORE_IS_BETTER else values[name]


def _holds(name: str, values: Mapping[str, float], default: Mapping[str, float]) -> bool:
    return name in values and name in default and _cost(name, values) <= _cost(name, default)


def _knee(fit: Sequence[Candidate], front: Sequence[Candidate]) -> Candidate:
    """The member nearest to the best of every objective, each scaled by its range over the front."""
    spans = {name: [member.values[name] for member in front] for name in OBJECTIVES}

    def distance(member: Candidate) -> float:
        return math.hypot(
            *((member.values[name] - min(span)) / ((max(span) - min(span)) or 1.0) for name, span in spans.items())
        )

    return min(fit, key=distance)
