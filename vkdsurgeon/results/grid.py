"""An attack's metrics as a grid: what was tried down the side, what was measured along the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vkdsurgeon.results.evaluation import Direction, Metric

ROLES = ("model", "gold", "reference")
_RETAIN, _GAIN = "retain.", "gain"


@dataclass(frozen=True)
class Column:
    """One metric of one group, of every model.

    Attributes:
        group: Such as `vqa.accuracy`, or `auc`.
        utility: Whether it is measured on what is to be kept.
        direction: Which way is better.
        roles: Models that it was measured on, in the order of `ROLES`.
        chance: What guessing would give; None where that means nothing.
    """

    group: str
    utility: bool
    direction: Direction
    roles: tuple[str, ...]
    chance: float | None


@dataclass(frozen=True)
class Grid:
    """A table of rows and columns for attacks that try many variations.

    Attributes:
        rows: What was tried, in the order of the document.
        columns: What was measured: of what is to be forgotten first.
        cells: (row, position of the column, role) -> the metric.
    """

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, int, str], Metric]


def arrange_grid(attack: str, metrics: Sequence[Metric]) -> Grid:
    """Arrange metrics `[reference.|gold.]ATTACK.[retain.]ROW.GROUP`; others are passed over, and parts of tasks.

    Args:
        attack: Name of the attack.
        metrics: Metrics of its document.
    """
    found: dict[tuple[bool, str], dict[tuple[str, str], Metric]] = {}
    rows: dict[str, None] = {}
    for metric in metrics:
        role = next((each for each in ROLES[1:] if metric.id.startswith(f"{each}.")), ROLES[0])
        name = metric.id.removeprefix(f"{role}.")
        if not name.startswith(f"{attack}."):
            continue
        rest = name.removeprefix(f"{attack}.")
        utility = rest.startswith(_RETAIN)
        row, dot, group = rest.removeprefix(_RETAIN).partition(".")
        if not dot or row == _GAIN or group.count(".") > 1:
            continue
        rows.setdefault(row)
        found.setdefault((utility, group), {})[row, role] = metric
    keys = sorted(found, key=lambda key: key[0])
    columns: list[Column] = []
    cells: dict[tuple[str, int, str], Metric] = {}
    for position, key in enumerate(keys):
        members = found[key]
        roles = tuple(role for role in ROLES if any(role == each for _, each in members))
        first = next(iter(members.values()))
        columns.append(Column(key[1], key[0], first.direction, roles, first.chance))
        cells |= {(row, position, role): metric for (row, role), metric in members.items()}
    return Grid(tuple(rows), tuple(columns), cells)
