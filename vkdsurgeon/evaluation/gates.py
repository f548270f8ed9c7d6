"""Bounds that a release must keep: `forget.vqa.accuracy<=0.10`, `retain.vqa.accuracy>=reference-0.03`."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vkdsurgeon.errors import UserError
from vkdsurgeon.results.evaluation import GateOutcome, Metric

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_GRAMMAR = re.compile(
    rf"\s*(?P<metric>[A-Za-z0-9_.-]+)\s*(?P<operator><=|>=|==|<|>)\s*"
    rf"(?:(?P<base>reference|gold)(?:\s*(?P<sign>[+-])\s*(?P<offset>\d[^\s]*|\.\d[^\s]*))?|(?P<number>{_NUMBER}))\s*"
)
_OPERATORS = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": lambda value, bound: math.isclose(value, bound, rel_tol=0.0, abs_tol=1e-12),
}


@dataclass(frozen=True)
class Gate:
    """One parsed bound.

    Attributes:
        text: As written.
        metric: The metric's id.
        operator: `<=`, `<`, `>=`, `>` or `==`.
        base: The model whose value of the same metric the bound starts from; None for a plain number.
        number: The bound, or what is added to the base's value.
    """

    text: str
    metric: str
    operator: str
    base: str | None
    number: float

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids that must have been measured."""
        return (self.metric,) if self.base is None else (self.metric, f"{self.base}.{self.metric}")


def parse_gates(texts: Sequence[str]) -> list[Gate]:
    """Parse the values of `gates`.

    Raises:
        UserError: One is not a gate.
    """
    return [_parse(text) for text in texts]


# Points, and steps of an attack; everything else is a share, or a difference of shares.
_NO_SHARES = (".ag", ".steps_to_recover", ".seconds", ".cpu_seconds", ".peak_memory_mib", ".tera_flops")


def check_gates(gates: Sequence[Gate], known: Collection[str]) -> None:
    """Refuse gates on what will not be measured.

    Raises:
        UserError: With the ids there are, or because a share is bounded by a percentage.
    """
    for gate in gates:
        if not gate.metric.endswith(_NO_SHARES) and abs(gate.number) > 1:
            raise UserError(
                "the bound of a share is not a percentage",
                where=f"`gates` {gate.text!r}",
                value=gate.number,
                expected="a share from 0 to 1, such as 0.10 for 10 %",
                remedy=f"write {gate.number / 100:g}; only AG (relearn.ag) is counted in points",
            )
        for needed in gate.needs:
            if needed in known:
                continue
            role = needed.split(".", 1)[0]
            missing = role in ("reference", "gold") and not any(name.startswith(f"{role}.") for name in known)
            near = difflib.get_close_matches(needed, known, n=1)
            argument = "base" if role == "reference" else role
            raise UserError(
                f"the gate needs a metric that is not measured: {needed}",
                where=f"`gates` {gate.text!r}",
                expected="one of " + ", ".join(sorted(known)),
                remedy=f"give `{argument}`" if missing else f"did you mean {near[0]}?" if near else None,
            )


def judge(gates: Sequence[Gate], values: Mapping[str, float | None]) -> list[GateOutcome]:
    """Hold measured values against the gates; what is missing or not a number fails.

    Args:
        gates: Parsed gates.
        values: Metric id -> value.
    """
    outcomes = []
    for gate in gates:
        value = _finite(values.get(gate.metric))
        bound: float | None = gate.number
        if gate.base is not None:
            start = _finite(values.get(f"{gate.base}.{gate.metric}"))
            bound = None if start is None else start + gate.number
        passed = value is not None and bound is not None and bool(_OPERATORS[gate.operator](value, bound))
        outcomes.append(GateOutcome(gate=gate.text, metric=gate.metric, value=value, bound=bound, passed=passed))
    return outcomes


def judge_metrics(gates: Sequence[Gate], metrics: Iterable[Metric]) -> list[GateOutcome]:
    """`judge` by what was measured."""
    return judge(gates, {metric.id: metric.value for metric in metrics})


def _parse(text: str) -> Gate:
    match = _GRAMMAR.fullmatch(text)
    offset = match["offset"] if match else None
    if match is None or (offset is not None and not re.fullmatch(_NUMBER, offset)):
        raise UserError(
            "not a gate",
            where="`gates`",
            value=text,
            expected="METRIC OPERATOR BOUND with <=, <, >=, > or ==, and a number, reference, gold, or one of these "
            "plus or minus a number",
            remedy='for example "forget.vqa.accuracy<=0.10" or "retain.vqa.accuracy>=reference-0.03"',
        )
    number = float(match["number"] or offset or 0.0)
    if not math.isfinite(number):
        raise UserError("the bound is out of range", where="`gates`", value=text)
    return Gate(
        text=text.strip(),
        metric=match["metric"],
        operator=match["operator"],
        base=match["base"],
        number=-number if match["sign"] == "-" else number,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
