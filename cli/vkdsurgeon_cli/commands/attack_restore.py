"""`vkdsurgeon attack restore`: put the original visual weights back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon_cli.commands.attack_options import Shared, with_attack_options
from vkdsurgeon_cli.commands.eval_ import gate_table, new_table, percent

if TYPE_CHECKING:
    from vkdsurgeon.results.relearn import RestoreResult


class PartName(str, Enum):
    """What is put back."""

    visual = "visual"
    tower = "tower"
    projector = "projector"


@with_attack_options("restore.after.vqa.name.accuracy<=gold+0.03", places=True)
def restore_command(
    *,
    reference: Annotated[Path, typer.Option("--reference", help="The original, whose visual weights are put back.")],
    forget: Annotated[Path, typer.Option("--forget", help="What was to be forgotten, best as held-out views.")],
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model that never saw the forget set; measured as it is.")
    ] = None,
    part: Annotated[
        PartName, typer.Option("--part", help="visual: tower and projector are put back; or one of the two.")
    ] = PartName.visual,
    shared: Shared,
) -> None:
    """Put the original tower and projector back in front of a patched language model, in memory, and ask again.

    The attack is free: no data, no training, only the original checkpoint. After visual unlearning alone it brings
    everything back, because the language model still reads the original features; after --decoder-pass it should not.
    """
    from vkdsurgeon.attacks.restore import Restoring, restore

    attack = Restoring(**shared.target(forget), reference=reference, gold=gold, part=part.value)
    result = restore(attack, shared.out.progress)
    shared.conclude(result, lambda: _tables(result))


def _tables(result: RestoreResult) -> list[Table]:
    values = {metric.id: metric.value for metric in result.metrics}
    settings = result.settings
    table = new_table(
        f"original {settings.part} put back: {settings.differing_elements:,} of {settings.restored_elements:,} "
        "elements had differed; percent"
    )
    columns = [("as given", "before", ""), ("put back", "after", ""), ("original", "after", "reference.")]
    columns += [("gold", "after", "gold.")] if any(name.startswith("gold.") for name in values) else []
    table.add_column("metric", no_wrap=True)
    for title, _, _ in columns:
        table.add_column(title, justify="right")
    for part, shown in (("restore", "forget"), ("restore.retain", "retain")):
        start = f"{part}.after."
        for rest in [name.removeprefix(start) for name in values if name.startswith(start)]:
            cells = (percent(values[f"{prefix}{part}.{stage}.{rest}"]) for _, stage, prefix in columns)
            table.add_row(f"{shown}.{rest}", *cells)
    return [table, gate_table(result.gates)] if result.gates else [table]
