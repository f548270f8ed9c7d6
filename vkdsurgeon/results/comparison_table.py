"""A comparison as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from vkdsurgeon.results.comparison import ComparisonResult, Row
from vkdsurgeon.results.comparison_columns import (
    CPU_SECONDS,
    FLOPS,
    FORGET,
    GENERAL,
    MEMORY,
    NAME,
    RETAIN,
    SCORE,
    SECONDS,
    SHARES,
    TEXT,
    attack_of,
    ordered,
)

CHANCE = "chance"
_HEADINGS = {
    FORGET: "forget",
    NAME: "name",
    GENERAL: "general",
    RETAIN: "retain",
    TEXT: "text",
    SCORE: "score",
    SECONDS: "seconds",
    CPU_SECONDS: "CPU s",
    MEMORY: "peak MiB",
    FLOPS: "TFLOPs",
}


def columns_of(result: ComparisonResult) -> list[str]:
    """The columns that some row has; AG by protocol and scope."""
    columns = ordered(name for row in result.rows for name in row.values)
    # The largest over the scopes is for gates: it stands in one of the columns already.
    return [column for column in columns if (attack := attack_of(column)) is None or attack[1] is not None]


def heading(column: str) -> str:
    """The heading of a column."""
    attack = attack_of(column)
    return _HEADINGS[column] if attack is None else " ".join(filter(None, ("AG", *attack)))


def lines_of(result: ComparisonResult) -> Iterator[tuple[str, list[str]]]:
    """Name and cells of every line: the rows, and what guessing would give."""
    columns = columns_of(result)
    for row in result.rows:
        yield row.name, [shown(row, column) for column in columns]
    if result.chance:
        yield CHANCE, [_number(result.chance[name], name) if name in result.chance else "" for name in columns]


def shown(row: Row, column: str) -> str:
    """One number as people read it: shares in percent, AG in points; with the range over several seeds."""
    value = row.values.get(column)
    if value is None:
        # The column is there, and this attack diverged with every seed.
        return "n/a" if column in row.values else ""
    text = _number(value, column)
    spread = column in row.low and column in row.high
    if spread and len(row.seeds) > 1 and (column in (*SHARES, SCORE) or attack_of(column)):
        text += f" ({_number(row.low[column], column)} to {_number(row.high[column], column)})"
    return text


def _number(value: float, column: str) -> str:
    if column in SHARES:
        return f"{100 * value:.1f}"
    if attack_of(column):
        return f"{value:+.1f}"
    return f"{value:.2f}" if column in (SCORE, FLOPS) else f"{value:.0f}"


def caption(result: ComparisonResult) -> str:
    """The caption of the table: units, sets, seeds and the settings of the attack."""
    attack = result.attack
    seeds = sorted({seed for row in result.rows for seed in row.seeds})
    measured = ", ".join(f"{name} on {part}" for name, part in result.measured_on.items())
    return (
        f"Percent; AG in points. Measured: {measured}; at most {result.limit or 'all'} questions a set; seeds "
        f"{', '.join(map(str, seeds))}{' (mean, and smallest to largest)' if len(seeds) > 1 else ''}. AG: relearning "
        f"{100 * attack.fraction:g} % for {attack.steps} steps at {attack.lr:g}, gold attacked alike with the same "
        f"seeds; scope {' or '.join(attack.scopes)} is what the attacker trains; lower is better (see gold's). Score: "
        "(1 - |forget - gold's|) x min(1, retain / base's) x mean over the protocols of (1 - max(0, AG - gold's) / "
        "100), of the scope where that is worst. Chance: guessing among the options. Seconds: one unlearning run; CPU "
        "s: its processor time. Peak MiB: on a CPU the largest resident set above that of the libraries, on a GPU the "
        "allocator's. TFLOPs: matrix products of one training step times the number of steps."
    )


def markdown(result: ComparisonResult) -> str:
    """The table with its caption and warnings."""
    columns = columns_of(result)
    lines = [f"| method | {' | '.join(map(heading, columns))} |", "|-" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in lines_of(result)]
    lines += ["", caption(result)]
    lines += ["", *(f"- Warning: {warning}" for warning in result.warnings)] if result.warnings else []
    return "\n".join(lines) + "\n"
