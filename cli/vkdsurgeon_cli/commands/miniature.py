"""`vkdsurgeon miniature`: the built-in miniature, unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing

if TYPE_CHECKING:
    from vkdsurgeon_cli.tables import Sheet

SCHEMA = "vkdsurgeon/miniature/1"
_SHOWN = ("forget.vqa", "forget.vqa.name", "forget.general", "retain.vqa", "retain.general", "text")


def miniature(
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new or empty directory.")],
    printing: Printing,
) -> None:
    """Write the built-in miniature to a directory: base/, gold/ and records/.

    base/ is a small LLaVA that knows drawn people who do not exist. gold/ was trained in the same way without those to
    forget. records/ has questions about all of them. `vkdsurgeon demo` runs the whole tool on it.
    """
    from vkdsurgeon.data.miniature.unpack import read_card, unpack

    output = printing.sink
    paths = unpack(out)
    card = read_card()
    document = {"schema": SCHEMA, "base": paths.base, "gold": paths.gold, "records": paths.records, "card": card}
    output.document(document, lambda: _sheet(card).fitted(output.columns), kept=out)


def _sheet(card: dict[str, Any]) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet, percent

    sheet = Sheet(f"accuracy in percent on held-out views, seed {card['seed']}; to forget: {', '.join(card['forget'])}")
    sheet.column("questions", "left")
    for model in ("base", "gold"):
        sheet.column(model)
    for task in _SHOWN:
        sheet.row(task, *(percent(card["accuracy"][model][task]) for model in ("base", "gold")))
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "miniature",
        miniature,
        "miniature -o miniature/",
        summary="Write the built-in miniature to a directory.",
    )
