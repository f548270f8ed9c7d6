"""Options and the table that several attacks share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon_cli.commands.eval_ import gate_table, new_table, percent

if TYPE_CHECKING:
    from vkdsurgeon.results.attacks import AttackResult

ForgetOption = Annotated[
    Path, typer.Option("--forget", help="Questions on what was to be forgotten, best on held-out views.")
]
GoldOption = Annotated[
    Path | None, typer.Option("--gold", help="A model that never saw the forget set; attacked alike.")
]

_ROWS = {"before": "as given"}


def attack_tables(result: AttackResult, title: str, *, first: str) -> list[Table]:
    """What was tried down the side, what was measured along the top; then the gates.

    Args:
        result: The attack's.
        title: Above the table.
        first: Heading of the first column.
    """
    from vkdsurgeon.results.grid import arrange_grid

    grid = arrange_grid(result.kind.removeprefix("attack."), result.metrics)
    table = new_table(f"{title}; percent")
    table.add_column(first, no_wrap=True)
    places = [(position, role) for position, column in enumerate(grid.columns) for role in column.roles]
    last = None
    for position, role in places:
        column = grid.columns[position]
        name = f"{'retain' if column.utility else 'forget'} {column.group.removesuffix('.accuracy')}"
        table.add_column(f"{name if position != last else ''}\n{role}", justify="right")
        last = position
    for row in grid.rows:
        metrics = [grid.cells.get((row, *place)) for place in places]
        cells = ("" if metric is None else percent(metric.value) for metric in metrics)
        table.add_row(_ROWS.get(row, row), *cells)
    if any(grid.columns[position].chance is not None for position, _ in places):
        table.add_section()
        chances = (grid.columns[position].chance for position, _ in places)
        table.add_row("chance", *("" if chance is None else percent(chance) for chance in chances))
    return [table, gate_table(result.gates)] if result.gates else [table]
