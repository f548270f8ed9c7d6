"""`vkdsurgeon inspect`: the split, before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import ModelArgument, Parts, TablePrinting

if TYPE_CHECKING:
    from vkdsurgeon.checkpoint.inventory import Inventory
    from vkdsurgeon.checkpoint.split import Split
    from vkdsurgeon_cli.tables import Sheet

SCHEMA = "vkdsurgeon/inspect/1"


def inspect(*, model: ModelArgument, parts: Parts, printing: TablePrinting) -> None:
    """Show what surgery would see in MODEL: tower, projector, language model, layers, files. Reads headers only."""
    output = printing.begin()
    from vkdsurgeon.checkpoint.inventory import take_inventory
    from vkdsurgeon.checkpoint.split import split_checkpoint

    inventory = take_inventory(model)
    split = split_checkpoint(inventory, tower=parts.tower, projector=parts.projector)
    facts = _facts(inventory, split)
    for warning in facts["warnings"]:
        output.warn(warning)
    output.document(facts, lambda: _sheet(facts).fitted(output.columns))


def _facts(inventory: Inventory, split: Split) -> dict[str, Any]:
    from vkdsurgeon.model.layers import find_layers, outputs_of

    return {
        "schema": SCHEMA,
        "model": str(inventory.root),
        "model_type": split.model_type,
        "parts": [
            _part(inventory, "tower", [split.placement.tower], split.tower),
            _part(inventory, "projector", list(split.placement.projector), split.projector),
            _part(inventory, "language", [], split.language),
            _part(inventory, "other", [], split.other),
        ],
        "layers": [*(f"layer.{index}" for index, _ in enumerate(find_layers(split))), *outputs_of(split)],
        "files": [
            {"path": file.path, "bytes": file.size, "tensors": _count(inventory, file.path)} for file in inventory.files
        ],
        "bytes": inventory.size,
        "warnings": [*inventory.warnings, *split.warnings],
    }


def _part(inventory: Inventory, name: str, modules: list[str], tensors: tuple[str, ...]) -> dict[str, Any]:
    entries = [inventory.tensors[tensor] for tensor in tensors]
    return {
        "part": name,
        "modules": modules,
        "tensors": len(entries),
        "parameters": sum(entry.elements for entry in entries),
        "bytes": sum(entry.nbytes for entry in entries),
        "dtypes": sorted({entry.dtype for entry in entries}),
        "files": sorted({entry.file for entry in entries}),
    }


def _count(inventory: Inventory, path: str) -> int:
    return sum(entry.file == path for entry in inventory.tensors.values())


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
    add_command(app, "inspect", inspect, "inspect model/", "inspect model/ --json")
