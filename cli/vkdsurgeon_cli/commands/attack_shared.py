"""What attacks have in common: options, targets, and the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vkdsurgeon_cli.measuring import Answering, Results, set_if_given
from vkdsurgeon_cli.options import BaseOption, DeviceOption, DtypeOption, GoldOption

if TYPE_CHECKING:
    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon_cli.tables import Sheet

ForgetOption = Annotated[
    Path, typer.Option("--forget", metavar="SET", help="What was to be forgotten, best as held-out views.")
]
RetainOption = Annotated[Path | None, typer.Option("--retain", metavar="SET", help="What utility is measured on.")]

_ROWS = {"before": "as given"}
# Where the room is small, what other models say goes before what the model itself says of another task.
_GOES = {"reference": 200, "gold": 100}


@dataclass(frozen=True, kw_only=True)
class Others:
    """The models that are attacked alike, and how all of them run."""

    base: BaseOption = None
    gold: GoldOption = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    panel: ClassVar[str] = "Models and device"


def target(
    model: Path, forget: Path, retain: Path | None, others: Others, answering: Answering, results: Results
) -> dict[str, Any]:
    """The fields of `variation.Target`, its sets read; the output's place and the gates are checked first.

    Raises:
        UserError: The output cannot be written, a gate is none, or a set cannot be read.
    """
    from vkdsurgeon.data.sets import read_set

    return {
        "gates": results.gates(),
        "model": model,
        "forget": read_set("forget", forget),
        "retain": set_if_given("retain", retain),
        "reference": others.base,
        "gold": others.gold,
        "device": others.device,
        "dtype": others.dtype,
        "scoring": answering.scoring(),
        "limit": answering.limit,
        "seed": answering.seed,
        "salt": results.salt_bytes(),
    }


def attack_sheets(result: AttackResult, title: str, *, first: str) -> list[Sheet]:
    """What was tried down the side, what was measured along the top.

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
