"""Attacks that try many things: what was tried down the side, what came of it along the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vkdsurgeon.report.metrics_table import Cell
from vkdsurgeon.report.text import Wording, percent
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.evaluation import Direction, Metric
from vkdsurgeon.results.grid import Column, Grid, arrange_grid

_PARTS = ("forgotten", "kept")
_ROWS = {"before": "as given", "worst": "worst of them", "mean": "mean of them"}
_SUMMARIES = frozenset({"before", "worst", "mean"})
_BESIDE = (("gold", "gold"), ("reference", "base"))


@dataclass(frozen=True)
class TriedCell:
    """One number of the unlearned model, and the others' in words."""

    model: Cell | None
    beside: str


@dataclass(frozen=True)
class TriedTable:
    """An attack that tries many things.

    Attributes:
        heads: What was measured, and what guessing would give, in words; between them which way is better.
        rows: What was tried, and a cell per head; None where it was not measured.
    """

    heads: tuple[tuple[str, Direction, str], ...]
    rows: tuple[tuple[str, tuple[TriedCell | None, ...]], ...]


def tabulate(document: AttackDocument, wording: Wording) -> TriedTable | None:
    """The table of one attack, utility beside the rest; None where it measures before and after only."""
    if any(metric.id.startswith(f"{document.attack}.after.") for metric in document.metrics):
        return None
    grid = arrange_grid(document.attack, document.metrics)
    if not grid.rows:
        return None
    heads: list[tuple[str, Direction, str]] = []
    for column in grid.columns:
        chance = "" if column.chance is None else f"chance {percent(column.chance)}"
        heads.append((wording(f"{_PARTS[column.utility]}: {_group(column)}"), column.direction, chance))
    rows = tuple(
        (wording(_ROWS.get(row, row)), tuple(_cell(grid, row, position) for position in range(len(grid.columns))))
        for row in grid.rows
    )
    return TriedTable(tuple(heads), rows)


def sum_up(document: AttackDocument, wording: Wording) -> str:
    """One sentence about an attack that tries many variations.

    Its last reader; else the forgotten metric that rose most over the model as given, and at what; else, where nothing
    was measured as given, the worst case over gold.
    """
    grid = arrange_grid(document.attack, document.metrics)
    places = [
        position for position, column in enumerate(grid.columns) if not column.utility and column.direction == "lower"
    ]
    # A reader of the old features says more than a probe of its own; what it reads last the language model reads too.
    readers = [position for position in places if grid.columns[position].group.startswith("reader.")]
    if not places:
        return ""
    tried = [row for row in grid.rows if row not in _SUMMARIES]
    rises = _rises(grid, places)
    if rises and not readers:
        row, position = max(rises, key=lambda place: rises[place])
        highest = "rose most "
    else:
        position = (readers or places)[0]
        rows = [row for row in tried if grid.cells.get((row, position, "model"))]
        if not rows:
            return ""
        row = rows[-1] if readers else max(rows, key=lambda row: _excess(grid.cells, row, position))
        highest = "" if readers else "highest over gold " if "gold" in grid.columns[position].roles else "highest "
    column = grid.columns[position]
    given = grid.cells.get(("before", position, "model"))
    values = [f"{percent(grid.cells[row, position, 'model'].value)} %"]
    values += [f"{percent(given.value)} % as given"] if given else []
    values += [f"{name} {percent(found.value)} %" for role, name in _BESIDE
               if (found := grid.cells.get((row, position, role)))]  # fmt: skip
    return f"{wording(_group(column))}, {highest}at {wording(row)}: {'; '.join(values)}."


@dataclass(frozen=True)
class TriedRise:
    """The forgotten metric that rose most, from 0 to 1; `gold` is the same metric of gold, None without one."""

    name: str
    before: float
    after: float
    gold: float | None


def rise_of(document: AttackDocument, wording: Wording) -> TriedRise | None:
    """The forgotten metric that rose most under any variation; None where nothing comparable was measured."""
    grid = arrange_grid(document.attack, document.metrics)
    columns = list(enumerate(grid.columns))
    places = [position for position, column in columns if not column.utility and column.direction == "lower"]
    rises = _rises(grid, places)
    if not rises or any(grid.columns[position].group.startswith("reader.") for position in places):
        return None
    row, position = max(rises, key=lambda place: rises[place])
    values = [
        found.value if (found := grid.cells.get(place)) is not None else None
        for place in (("before", position, "model"), (row, position, "model"), (row, position, "gold"))
    ]
    assert values[0] is not None
    assert values[1] is not None
    return TriedRise(f"{wording(_group(grid.columns[position]))}, {wording(row)}", values[0], values[1], values[2])


def _rises(grid: Grid, places: Sequence[int]) -> dict[tuple[str, int], float]:
    return {
        (row, position): rise
        for position in places
        for row in grid.rows
        if row not in _SUMMARIES and (rise := _rise(grid.cells, row, position)) is not None
    }


def _rise(cells: Mapping[tuple[str, int, str], Metric], row: str, position: int) -> float | None:
    given, found = (cells.get((each, position, "model")) for each in ("before", row))
    if given is None or found is None or given.value is None or found.value is None:
        return None
    return found.value - given.value


def _excess(cells: Mapping[tuple[str, int, str], Metric], row: str, position: int) -> float:
    mine, gold = (cells.get((row, position, role)) for role in ("model", "gold"))
    value = mine.value if mine is not None and mine.value is not None else -1.0
    return value - (gold.value if gold is not None and gold.value is not None else 0.0)


def _cell(grid: Grid, row: str, position: int) -> TriedCell | None:
    found = {role: grid.cells.get((row, position, role)) for role in ("model", "gold", "reference")}
    mine = found["model"]
    others = [f"{name} {percent(other.value)}" for role, name in _BESIDE if (other := found[role]) is not None]
    if mine is None and not others:
        return None
    return TriedCell(None if mine is None else Cell(mine.value, mine.low, mine.high), ", ".join(others))


def _group(column: Column) -> str:
    return column.group.removesuffix(".accuracy").replace("_", " ").replace(".", " ")
