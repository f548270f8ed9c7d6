"""`vkdsurgeon compare`: several methods on one case, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vkdsurgeon.config.preset import preset_names
from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import (
    GateOption,
    GoldOption,
    ModelArgument,
    RecipeSource,
    ShardOption,
    TablePrinting,
    WholeTrainingPlace,
)
from vkdsurgeon_cli.tracking import Tracking

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkdsurgeon.results.comparison import ComparisonResult
    from vkdsurgeon_cli.tables import Sheet

_PRESETS = ", ".join(f"vkd-{name}" for name in preset_names())


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is forgotten and kept, and what is measured."""

    forget: Annotated[Path, typer.Option("--forget", metavar="SET", help="The forget set: questions about images.")]
    retain: Annotated[Path, typer.Option("--retain", metavar="SET", help="The retain set: questions about images.")]
    heldout: Annotated[
        Path | None,
        typer.Option("--heldout", metavar="SET", help="Other images of the forget subjects, to measure on."),
    ] = None
    retain_heldout: Annotated[
        Path | None, typer.Option("--retain-heldout", metavar="SET", help="Other images of the retain subjects.")
    ] = None
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="SET",
            help="Questions without images: one half to measure on, the other for methods that use text.",
        ),
    ] = None
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Most questions per measured set.")] = 800
    panel: ClassVar[str] = "Data"


@dataclass(frozen=True, kw_only=True)
class Methods:
    """What is compared, and how it is attacked."""

    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="NAMES",
            help=f"Separated by commas: vkd; {_PRESETS}; vkd-npo, vkd-idk, vkd-ga, "
            "vkd-uniform (output mode); ga, graddiff, klmin, npo, idk, rmu, manu, mmunlearner; or all.",
        ),
    ] = "all"
    seeds: Annotated[str, typer.Option("--seeds", metavar="N", help="Such as 0,1,2; each method runs with each.")] = "0"
    attack_steps: Annotated[
        int, typer.Option("--attack-steps", metavar="N", min=1, help="Steps of the relearning attacks.")
    ] = 15
    attack_scope: Annotated[
        str,
        typer.Option(
            "--attack-scope",
            metavar="NAMES",
            help="Weights the attackers train: visual, llm (LoRA), llm_full, all. The score uses the worst.",
        ),
    ] = "visual,all"
    gold: GoldOption = None
    panel: ClassVar[str] = "Methods and attacks"


@dataclass(frozen=True, kw_only=True)
class Results(TablePrinting):
    """Where results go."""

    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="For the results; finished runs in it are reused."),
    ]
    gate: GateOption = None
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the patched checkpoints in the output directory.")
    ] = False
    shard: ShardOption = None
    panel: ClassVar[str] = "Output and gates"


def compare_command(
    *,
    model: ModelArgument,
    sets: Sets,
    methods: Methods,
    results: Results,
    tracking: Tracking,
    source: RecipeSource,
    place: WholeTrainingPlace,
) -> None:
    """Run several unlearning methods on the same data, and compare forgetting, utility, AG and cost.

    Every method and seed runs in a process of its own: it unlearns, is evaluated, and is attacked by relearning some
    subjects and some kinds of question (measured on the others). To continue an interrupted comparison, run the same
    command again. The base model always has a row, and so has gold if given. Gates name a row and a column, such as
    "vkd.forget<=0.10" or "vkd.people.relearn.ag<=5"; for relearning, the largest value over the attackers counts. The
    output directory contains comparison.json and comparison.md. With --shard I/N, N machines share the runs; afterwards
    the same command without it makes the table.
    """
    output = results.begin()
    from vkdsurgeon import compare
    from vkdsurgeon.comparison.methods import parse_seeds
    from vkdsurgeon_cli.tables import gate_sheet, stack

    result = compare(
        model,
        methods.methods,
        out=results.out,
        # A preset is what `vkd` stands for; the recipe is laid over the preset of each method.
        recipe=source.load(preset=False),
        preset=source.preset,
        gold=methods.gold,
        seeds=parse_seeds(methods.seeds),
        attack_scopes=methods.attack_scope.split(","),
        attack_steps=methods.attack_steps,
        gates=results.gate or [],
        keep_models=results.keep_models,
        shard=results.shard,
        on_event=tracking.heard_by(output.progress, output.warn),
        **vars(sets),
        **vars(place),
    )
    for warning in result.warnings:
        output.warn(warning)

    def tables() -> RenderableType:
        gates = [gate_sheet(result.gates)] if result.gates else []
        return stack([_sheet(result), *gates], output.columns)

    output.document(result.model_dump(mode="json"), tables, kept=results.out)
    result.raise_if_failed()


def _sheet(result: ComparisonResult) -> Sheet:
    from vkdsurgeon.results.comparison_table import caption, columns_of, heading, lines_of
    from vkdsurgeon_cli.tables import Sheet

    sheet = Sheet(f"{result.model_type} on {result.device}", caption(result))
    sheet.column("method", "left")
    for number, column in enumerate(columns_of(result)):
        # Costs stand at the end and go first; the first column, forgetting, stays.
        sheet.column(heading(column).replace(" ", "\n"), drop=number)
    for name, cells in lines_of(result):
        sheet.row(name, *cells)
    return sheet


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "compare",
        compare_command,
        "compare model/ --forget f.jsonl --retain r.jsonl --gold gold/ -o out/",
        "compare model/ --forget f.jsonl --retain r.jsonl --methods vkd,npo -o out/",
        "compare model/ --forget f.jsonl --retain r.jsonl --methods npo --set baseline.npo_beta=0.1 -o out/",
        summary="Run several unlearning methods on the same data.",
    )
