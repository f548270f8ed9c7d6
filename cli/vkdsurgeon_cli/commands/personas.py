"""`vkdsurgeon personas`: the built-in miniature, unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vkdsurgeon_cli.options import JsonOption
from vkdsurgeon_cli.output import Output

OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="A directory that is missing or empty.")]

_SHOWN = ("forget.vqa", "forget.vqa.name", "forget.general", "retain.vqa", "retain.general", "text")


def register(app: typer.Typer) -> None:
    """Add `personas` with its subcommands."""
    group = typer.Typer(
        help="The built-in miniature: drawn people who do not exist, a small model that knows them, and one that "
        "never saw those to forget.",
        no_args_is_help=True,
    )
    group.command("unpack")(unpack_command)
    app.add_typer(group, name="personas")


def unpack_command(out: OutArgument, as_json: JsonOption = False) -> None:
    """Write the shipped base/, gold/ and records/ to OUT."""
    from vkdsurgeon.data.miniature.unpack import read_card, unpack

    paths = unpack(out)
    card = read_card()
    document = {"base": paths.base, "gold": paths.gold, "records": paths.records, "card": card}
    Output(as_json).document(document, lambda: _table(card), kept=out)


def _table(card: dict[str, Any]) -> Table:
    table = Table(title=f"Accuracy on held-out views, seed {card['seed']}, to forget: {', '.join(card['forget'])}")
    table.add_column("questions")
    for model in ("base", "gold"):
        table.add_column(model, justify="right")
    for task in _SHOWN:
        table.add_row(task, *(f"{100 * card['accuracy'][model][task]:.1f} %" for model in ("base", "gold")))
    return table
