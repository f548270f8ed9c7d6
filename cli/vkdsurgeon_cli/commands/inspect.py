"""`vkdsurgeon inspect`: the split, before anything is touched."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import ModelArgument, SensedParts, TablePrinting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkdsurgeon_cli.tables import Sheet


def inspect(*, model: ModelArgument, parts: SensedParts, printing: TablePrinting) -> None:
    """Show how MODEL is split into vision tower, projector and language model, with its layers and files.

    Only the headers of the weight files are read, and the values of tower and projector where these are F64.
    """
    output = printing.begin()
    import vkdsurgeon

    with _without_collecting():
        result = vkdsurgeon.inspect(model, **vars(parts))
    for warning in result.warnings:
        output.warn(warning)
    facts = result.model_dump(mode="json")
    output.document(facts, lambda: _shown(facts, output.columns))


def _shown(facts: dict[str, Any], width: int) -> RenderableType:
    from rich.console import Group

    from vkdsurgeon_cli.tables import pairs

    sheet = _sheet(facts).fitted(width)
    if not facts["runs"]:
        return sheet
    rows: list[tuple[str, object]] = []
    for run in facts["runs"]:
        request = " of ".join(each for each in (run["request_id"], run["request_date"]) if each)
        rows += [
            ("PATCHED by", f"{run['method']} ({run['record']})"),
            ("request", request or "the record names none"),
            ("base weights", run["base_weights_digest"] or "not in the record"),
            ("patched weights", run["weights_digest"] or "not in the record"),
        ]
    return Group(sheet, "", pairs([*rows, ("check it", "vkdsurgeon verify MODEL --base BASE")], width))


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause the garbage collector: importing torch and transformers makes objects that stay, and searching them for
    garbage over and over takes a fifth of the command's time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _sheet(facts: dict[str, Any]) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet

    layers = facts["layers"]
    told = f"{layers[0]} ... {layers[-2]}, {layers[-1]}" if len(layers) > 2 else ", ".join(layers)
    sheet = Sheet(
        f"{facts['model']} ({facts['model_type']})",
        f"{len(facts['files'])} files, {facts['bytes']:,} bytes; features at {told}",
    )
    sheet.column("part", "left")
    sheet.column("modules", "left", drop=3)
    sheet.column("dtype", "left", drop=2)
    sheet.column("tensors", drop=4)
    sheet.column("parameters")
    sheet.column("bytes", drop=1)
    sheet.column("files", drop=5)
    for part in facts["parts"]:
        sheet.row(
            part["part"],
            "\n".join(part["modules"]),
            ", ".join(part["dtypes"]),
            f"{part['tensors']:,}",
            f"{part['parameters']:,}",
            f"{part['bytes']:,}",
            str(len(part["files"])),
        )
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "inspect",
        inspect,
        "inspect model/",
        "inspect model/ --json",
        summary="Show how a model splits into tower, projector and language model.",
    )
