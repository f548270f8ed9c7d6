"""Which member of the front a pipeline takes: `knee`, or "min forget where retain<=0.02"."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.objective import FORGET, OBJECTIVES, RETAIN, ROBUST

STOP_RULE = "stop_rule"
_PARTS = ("certainty", "kept_drift", "view_drift", "certainty_after_attack")
FORGET_RATE = "forget_rate"
_RATES = (FORGET_RATE, "retain_rate", "general_rate")
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_CONDITION = re.compile(rf"\s*(?P<name>\w+)\s*(?P<operator><=|>=|==|<|>)\s*(?P<bound>{_NUMBER}|default)\s*")
_RULE = re.compile(r"\s*(?P<way>min|max)\s+(?P<name>\w+)(?:\s+where\s+(?P<conditions>.+))?", re.DOTALL)
_OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}
# A member that is at least as good as the recipe that the search started from satisfies each of these.
_NAMED = {
    FORGET: f"min {FORGET} where {RETAIN}<=default",
    RETAIN: f"min {RETAIN} where {FORGET}<=default",
    ROBUST: f"min {ROBUST} where {FORGET}<=default and {RETAIN}<=default",
}
KNEE = "knee"
RULES = (KNEE, *_NAMED)


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
    """A parsed rule.

    Attributes:
        text: As written.
        name: What is compared; None for `knee`.
        sign: 1 for the least, -1 for the most.
        conditions: Name, operator, bound; a bound of None is the value of the recipe that the search started from.
    """

    text: str
    name: str | None
    sign: int
    conditions: tuple[tuple[str, str, float | None], ...]

    def pick(self, front: Sequence[Candidate], default: Mapping[str, float]) -> Candidate | None:
        """The member that the rule takes, None where none satisfies it.

        Members whose run met the stop rule go first, unless the rule itself asks for `stop_rule`: with the others,
        `unlearn` would end with status 3.

        Args:
            front: The candidates.
            default: What `default` stands for by name: values of the recipe that the search started from, where they
                are below chance the chance; empty where it failed.
        """
        fit = [member for member in front if all(_holds(member.values, each, default) for each in self.conditions)]
        met = [member for member in fit if member.values.get(STOP_RULE)]
        if met and all(name != STOP_RULE for name, _, _ in self.conditions):
            fit = met
        if not fit:
            return None
        if self.name is None:
            return _knee(fit, front)
        name = self.name
        known = [member for member in fit if name in member.values]
        # Of equals the one that is better otherwise.
        return min(
            known,
            key=lambda member: (self.sign * member.values[name], *(member.values[other] for other in OBJECTIVES)),
            default=None,
        )


def parse_rule(text: str, *, rates: bool) -> Rule:
    """Parse the value of `--pick`.

    Args:
        text: A named rule, or "min|max NAME [where NAME<=BOUND [and ...]]"; a bound is a number or `default`.
        rates: Whether rates of answers are measured.

    Raises:
        UserError: It is neither, or names what is not measured.
    """
    written = text.strip()
    if written == KNEE:
        return Rule(written, None, 1, ())
    match = _RULE.fullmatch(_NAMED.get(written, written))
    parts = re.split(r"\s+and\s+", match["conditions"]) if match and match["conditions"] else []
    found = [_CONDITION.fullmatch(part) for part in parts]
    if match is None or not all(found):
        raise UserError(
            "not a rule to pick by",
            where="--pick",
            value=text,
            expected=f"{', '.join(RULES)}, or min|max NAME where NAME<=BOUND and ...",
            remedy=f'for example --pick "min {FORGET} where {RETAIN}<=0.02"',
        )
    conditions = tuple(
        (each["name"], each["operator"], None if each["bound"] == "default" else float(each["bound"]))
        for each in found
        if each
    )
    known = [*OBJECTIVES, *_PARTS, *(_RATES if rates else ()), "seconds", STOP_RULE]
    for name in (match["name"], *(name for name, _, _ in conditions)):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"the rule needs what is not measured: {name}",
                where=f"--pick {text!r}",
                expected="one of " + ", ".join(known),
                remedy="give --validation-forget and --validation-retain"
                if name in _RATES
                else f"did you mean {near[0]}?"
                if near
                else None,
            )
    if any(bound is not None and not math.isfinite(bound) for _, _, bound in conditions):
        raise UserError("a bound is out of range", where=f"--pick {text!r}")
    return Rule(written, match["name"], 1 if match["way"] == "min" else -1, conditions)


def _holds(values: Mapping[str, float], condition: tuple[str, str, float | None], default: Mapping[str, float]) -> bool:
    name, compare, bound = condition
    bound = default.get(name) if bound is None else bound
    value = values.get(name)
    return value is not None and bound is not None and bool(_OPERATORS[compare](value, bound))


def _knee(fit: Sequence[Candidate], front: Sequence[Candidate]) -> Candidate:
    """The member nearest to the best of every objective, each scaled by its range over the front."""
    spans = {name: [member.values[name] for member in front] for name in OBJECTIVES}

    def distance(member: Candidate) -> float:
        return math.hypot(
            *((member.values[name] - min(span)) / ((max(span) - min(span)) or 1.0) for name, span in spans.items())
        )

    return min(fit, key=distance)
