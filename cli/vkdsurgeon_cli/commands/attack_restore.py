"""`vkdsurgeon attack restore`: put the original visual weights back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, RetainOption, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument, Parts

if TYPE_CHECKING:
    from vkdsurgeon.results.relearn import RestoreResult
    from vkdsurgeon_cli.tables import Sheet


class PartName(str, Enum):
    """The part of the original model that is put back."""

    visual = "visual"
    tower = "tower"
    projector = "projector"


@dataclass(frozen=True, kw_only=True)
class RestoreOthers(ComparedModels):
    """The models; the original is needed here, and gold is measured as it is."""

    base: Annotated[
        Path,
        typer.Option(
            "--base", "--reference", metavar="DIR", help="The model before unlearning, whose weights are restored."
        ),
    ]


def restore_command(
    *,
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    part: Annotated[
        PartName, typer.Option("--part", metavar="NAME", help="visual (both), tower or projector.")
    ] = PartName.visual,
    others: RestoreOthers,
    parts: Parts,
    answering: Answering,
    results: Results,
) -> None:
    """Put the original vision tower and projector back, in memory, and ask the questions again.

    This attack needs no data and no training, only the original checkpoint. After visual unlearning alone it brings
    everything back, because the language model still understands the original features. After --decoder-pass it should
    not.
    """
    results.begin()
    result = run("restore", model, (forget, retain), others, answering, results, {"part": part.value}, parts)
    results.conclude(result, lambda: [_sheet(result)])


def _sheet(result: RestoreResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet, percent

    values = {metric.id: metric.value for metric in result.metrics}
    settings = result.settings
    sheet = Sheet(
        f"original {settings.part} put back: {settings.differing_elements:,} of {settings.restored_elements:,} "
        "elements had differed; percent"
    )
    columns = [("as given", "before", ""), ("put back", "after", ""), ("original", "after", "reference.")]
    columns += [("gold", "after", "gold.")] if any(name.startswith("gold.") for name in values) else []
    sheet.column("metric", "left")
    for title, _, _ in columns:
        sheet.column(title)
    for start_id, shown in (("restore", "forget"), ("restore.retain", "retain")):
        start = f"{start_id}.after."
        for rest in [name.removeprefix(start) for name in values if name.startswith(start)]:
            cells = (percent(values[f"{prefix}{start_id}.{stage}.{rest}"]) for _, stage, prefix in columns)
            sheet.row(f"{shown}.{rest}", *cells)
    return sheet
