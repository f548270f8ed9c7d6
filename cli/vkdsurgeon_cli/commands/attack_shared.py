"""What attacks have in common: options, targets, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import (
    Parts,
)

if TYPE_CHECKING:
    from vkdsurgeon.api.names import AttackName
    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon_cli.tables import Sheet

ForgetOption = Annotated[
    Path, typer.Option("--forget", metavar="SET", help="The forget set, best with held-out images.")
]
RetainOption = Annotated[
    Path | None, typer.Option("--retain", metavar="SET", help="The retain set, to measure utility.")
]

_ROWS = {"before": "as given"}
# Where the room is small, what other models say goes before what the model itself says of another task.
_GOES = {"reference": 200, "gold": 100}


def run(
    name: AttackName,
    model: Path,
    sets: tuple[Path, Path | None],
    others: ComparedModels,
    answering: Answering,
    results: Results,
    own: Mapping[str, Any],
    parts: Parts | None = None,
) -> Any:
    """Run an attack that is measured by answers.

    Args:
        name: Name of the attack.
        model: The unlearned model.
        sets: The forget and the retain set.
        others: Base and gold.
        answering: How questions are put.
        results: Bounds and salt.
        own: Settings of this attack alone.
        parts: Where tower and projector lie.
    """
    from vkdsurgeon import attack

    return attack(
        name,
        model,
        sets[0],
        retain=sets[1],
        base=others.base,
        gold=others.gold,
        device=others.device,
        device_map=others.device_map,
        max_memory=others.max_memory,
        settings={**vars(answering), "dtype": others.dtype, **own},
        on_event=results.sink.progress,
        **results.asked(),
        **({} if parts is None else vars(parts)),
    )


def attack_sheets(result: AttackResult, title: str, *, first: str) -> list[Sheet]:
    """One row per variation that was tried, one column per metric.

    Args:
        result: The attack's.
        title: Above the table.
        first: Heading of the first column.
    """
    from vkdsurgeon.results.grid import arrange_grid
    from vkdsurgeon_cli.tables import Sheet, or_blank, percent

    grid = arrange_grid(result.kind.removeprefix("attack."), result.metrics)
    sheet = Sheet(f"{title}; percent")
    sheet.column(first, "left")
    places = [(position, role) for position, column in enumerate(grid.columns) for role in column.roles]
    for number, (position, role) in enumerate(places):
        column = grid.columns[position]
        part = "retain" if column.utility else "forget"
        shown = "base" if role == "reference" else role
        sheet.column(
            "\n".join([part, *column.group.removesuffix(".accuracy").split("."), shown]),
            drop=number and number + _GOES.get(role, 0),
        )
    for row in grid.rows:
        metrics = [grid.cells.get((row, *place)) for place in places]
        sheet.row(_ROWS.get(row, row), *("" if metric is None else percent(metric.value) for metric in metrics))
    if any(grid.columns[position].chance is not None for position, _ in places):
        sheet.line()
        sheet.row("chance", *(or_blank(grid.columns[position].chance) for position, _ in places))
    return [sheet]
