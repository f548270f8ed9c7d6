"""A comparison as Markdown."""

from __future__ import annotations

from vkdsurgeon.comparison.headline import (
    CPU_SECONDS,
    FLOPS,
    FORGET,
    GENERAL,
    MEMORY,
    NAME,
    RETAIN,
    SCORE,
    SECONDS,
    TEXT,
    ag_of,
)
from vkdsurgeon.comparison.schema import ComparisonResult, Row

HEADINGS = {
    FORGET: "forget",
    NAME: "name",
    GENERAL: "general",
    RETAIN: "retain",
    TEXT: "text",
    ag_of("people"): "AG people",
    ag_of("pairs"): "AG pairs",
    SCORE: "score",
    SECONDS: "seconds",
    CPU_SECONDS: "CPU s",
    MEMORY: "peak MiB",
    FLOPS: "TFLOPs",
}
_SHARES = (FORGET, NAME, GENERAL, RETAIN, TEXT)


def columns_of(result: ComparisonResult) -> list[str]:
    """The columns that some row has."""
    return [column for column in HEADINGS if any(column in row.values for row in result.rows)]


def shown(row: Row, column: str) -> str:
    """One number as people read it: shares in percent, AG in points; with the range over several seeds."""
    value = row.values.get(column)
    if value is None:
        return ""
    text = _number(value, column)
    if len(row.seeds) > 1 and column in (*_SHARES, SCORE, ag_of("people"), ag_of("pairs")):
        text += f" ({_number(row.low[column], column)} to {_number(row.high[column], column)})"
    return text


def _number(value: float, column: str) -> str:
    if column in _SHARES:
        return f"{100 * value:.1f}"
    if column.endswith("relearn.ag"):
        return f"{value:+.1f}"
    return f"{value:.2f}" if column in (SCORE, FLOPS) else f"{value:.0f}"


def caption(result: ComparisonResult) -> str:
    """What the numbers are."""
    attack = result.attack
    seeds = sorted({seed for row in result.rows for seed in row.seeds})
    return (
        f"Percent; AG in points. Forget measured on {result.measured_on['forget']}, retain on "
        f"{result.measured_on['retain']}; at most {result.limit or 'all'} questions a set; seeds "
        f"{', '.join(map(str, seeds))}{' (mean, range)' if len(seeds) > 1 else ''}. AG: relearning "
        f"{100 * attack.fraction:g} % for {attack.steps} steps at {attack.lr:g}, scope {attack.scope}; lower is better "
        "(see gold's). Score: (1 - |forget - gold's|) x min(1, retain / base's) x mean of (1 - max(0, AG - gold's) / "
        "100). Seconds: one unlearning run; CPU s: its processor time. Peak MiB: on a CPU the largest resident set "
        "above that of the libraries, on a GPU the allocator's. TFLOPs: matrix products of one training step times "
        "the number of steps."
    )


def markdown(result: ComparisonResult) -> str:
    """The table with its caption and warnings."""
    columns = columns_of(result)
    lines = [f"| method | {' | '.join(HEADINGS[column] for column in columns)} |", "|-" * (len(columns) + 1) + "|"]
    lines += [f"| {row.name} | {' | '.join(shown(row, column) for column in columns)} |" for row in result.rows]
    lines += ["", caption(result)]
    lines += ["", *(f"- Warning: {warning}" for warning in result.warnings)] if result.warnings else []
    return "\n".join(lines) + "\n"
