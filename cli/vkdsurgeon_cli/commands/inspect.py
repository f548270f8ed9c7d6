"""`vkdsurgeon inspect`: the split, before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from vkdsurgeon_cli.options import JsonOption, ModelArgument, ProjectorOption, TowerOption
from vkdsurgeon_cli.output import Output

if TYPE_CHECKING:
    from vkdsurgeon.checkpoint.inventory import Inventory
    from vkdsurgeon.checkpoint.split import Split


def inspect(
    model: ModelArgument,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what surgery would see in MODEL: tower, projector, language model, layers, files. Reads headers only."""
    from vkdsurgeon.checkpoint.inventory import take_inventory
    from vkdsurgeon.checkpoint.split import split_checkpoint

    output = Output(as_json)
    inventory = take_inventory(model)
    split = split_checkpoint(inventory, tower=tower, projector=projector)
    facts = _facts(inventory, split)
    for warning in facts["warnings"]:
        output.warn(warning)
    output.document(facts, lambda: _table(facts))


def _facts(inventory: Inventory, split: Split) -> dict[str, Any]:
    from vkdsurgeon.model.layers import find_layers, outputs_of

    return {
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


def _table(facts: dict[str, Any]) -> Table:
    layers = facts["layers"]
    table = Table(
        title=escape(f"{facts['model']} ({facts['model_type']})"),
        caption=f"{len(facts['files'])} files, {facts['bytes']:,} bytes; features at "
        + (f"{layers[0]} ... {layers[-2]}, {layers[-1]}" if len(layers) > 2 else ", ".join(layers)),
        title_justify="left",
        caption_justify="left",
    )
    for column in ("part", "modules", "dtype"):
        table.add_column(column, overflow="fold")
    for column in ("tensors", "parameters", "bytes", "files"):
        table.add_column(column, justify="right")
    for part in facts["parts"]:
        table.add_row(
            part["part"],
            "\n".join(part["modules"]),
            ", ".join(part["dtypes"]),
            f"{part['tensors']:,}",
            f"{part['parameters']:,}",
            f"{part['bytes']:,}",
            str(len(part["files"])),
        )
    return table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)
