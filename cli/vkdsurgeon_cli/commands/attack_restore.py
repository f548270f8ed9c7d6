"""`vkdsurgeon attack restore`: put the original visual weights back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon_cli.commands.eval_ import (
    BatchOption,
    DtypeOption,
    NormalisedOption,
    OutputOption,
    SaltOption,
    TokensOption,
    conclude,
    gate_table,
    gates_of,
    new_table,
    percent,
    set_if_given,
    stack,
)
from vkdsurgeon_cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ProgressOption,
    ProjectorOption,
    SeedOption,
    TowerOption,
)
from vkdsurgeon_cli.output import Output, ProgressMode

if TYPE_CHECKING:
    from vkdsurgeon.attacks.schema import RestoreResult


class PartName(str, Enum):
    """What is put back."""

    visual = "visual"
    tower = "tower"
    projector = "projector"


def restore_command(
    model: ModelArgument,
    reference: Annotated[Path, typer.Option("--reference", help="The original, whose visual weights are put back.")],
    forget: Annotated[Path, typer.Option("--forget", help="What was to be forgotten, best as held-out views.")],
    retain: Annotated[Path | None, typer.Option("--retain", help="What utility is measured on.")] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model that never saw the forget set; measured as it is.")
    ] = None,
    part: Annotated[
        PartName, typer.Option("--part", help="visual: tower and projector are put back; or one of the two.")
    ] = PartName.visual,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions per set.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            help='A bound such as "restore.after.vqa.name.accuracy<=gold+0.03"; missing it ends with status 3.',
        ),
    ] = None,
    output: OutputOption = None,
    salt: SaltOption = None,
    length_normalised: NormalisedOption = False,
    max_new_tokens: TokensOption = 64,
    batch_size: BatchOption = 32,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Put the original tower and projector back in front of a patched language model, in memory, and ask again.

    The attack is free: no data, no training, only the original checkpoint. After visual unlearning alone it brings
    everything back, because the language model still reads the original features; after --decoder-pass it should not.
    """
    from vkdsurgeon.attacks.restore import Restoring, restore
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.evaluation.sets import read_set

    gates = gates_of(gate, output)
    out = Output(as_json, progress)
    attack = Restoring(
        model=model,
        reference=reference,
        forget=read_set("forget", forget),
        retain=set_if_given("retain", retain),
        gold=gold,
        part=part.value,
        limit=limit,
        seed=seed,
        gates=gates,
        scoring=Scoring(batch_size, length_normalised, max_new_tokens),
        device=device,
        dtype=dtype,
        tower=tower,
        projector=projector,
        salt=(salt or "").encode(),
    )
    result = restore(attack, out.progress)
    conclude(result, output, out, lambda: stack(_tables(result)))


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
