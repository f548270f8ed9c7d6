"""`vkdsurgeon compare`: several methods on one case, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon.config.preset import preset_names
from vkdsurgeon_cli.commands.eval_ import gate_table, new_table, stack
from vkdsurgeon_cli.options import (
    DeviceOption,
    GateOption,
    JsonOption,
    ModelArgument,
    ProgressOption,
    ProjectorOption,
    TowerOption,
)
from vkdsurgeon_cli.other_methods import parse_settings
from vkdsurgeon_cli.output import Output, ProgressMode

if TYPE_CHECKING:
    from vkdsurgeon.results.comparison import ComparisonResult


def compare_command(
    model: ModelArgument,
    forget: Annotated[Path, typer.Option("--forget", help="What to forget: questions with answers about pictures.")],
    retain: Annotated[Path, typer.Option("--retain", help="What to keep, likewise.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Directory for the results; finished cells in it are not run again.")
    ],
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help=f"Comma-separated: vkd; VKD by a preset, {', '.join(f'vkd-{name}' for name in preset_names())}; VKD "
            "in output mode, vkd-npo, vkd-idk, vkd-ga, vkd-uniform; ga, graddiff, klmin, npo, idk, rmu, manu, "
            "mmunlearner; or all (of output mode vkd-npo alone).",
        ),
    ] = "all",
    gold: Annotated[Path | None, typer.Option("--gold", help="A model that never saw the forget set.")] = None,
    heldout: Annotated[
        Path | None, typer.Option("--heldout", help="Other views of the forget set's subjects, to measure on.")
    ] = None,
    retain_heldout: Annotated[
        Path | None, typer.Option("--retain-heldout", help="Other views of the retain set's subjects, to measure on.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            help="Questions without pictures. One half is measured; the other half is given to methods that have a "
            "use for text: the decoder pass as its keep set, mmunlearner and manu for their masks.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Comma-separated seeds; each method runs with each.")] = "0",
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help=f"What vkd itself stands for, as in unlearn: {', '.join(preset_names())}. --recipe wins over it.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe as YAML: vkd's keys, sections `baseline` and `decoder`.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="KEY=VALUE", help="A key of the recipe section `baseline`; repeatable."),
    ] = None,
    attack_steps: Annotated[
        int, typer.Option("--attack-steps", min=1, help="Steps of the relearning attacks behind AG.")
    ] = 15,
    attack_scope: Annotated[
        str,
        typer.Option(
            "--attack-scope",
            help="What these attackers train, comma-separated: visual (tower and projector), llm (LoRA on the language "
            "model), llm_full, all. Every protocol is run with each, and the score takes the worst.",
        ),
    ] = "visual,all",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many questions per measured set.")] = 800,
    gate: GateOption = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Leave the patched checkpoints in the output directory.")
    ] = False,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Weights in memory while unlearning: float32, or bfloat16.")
    ] = "float32",
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Run several unlearning methods on one case and print forgetting, utility, AG and cost side by side.

    Each method and seed is a cell: unlearned in a process of its own, evaluated, and attacked by relearning some people
    (measured on the others) and some kinds of question (measured on the others), with tower and projector and with
    every weight. Finished cells are kept under a digest of everything that decides them; an interrupted comparison goes
    on where it stopped. The base model always has a row, gold has one where it is given. Gates name a row and a column,
    such as "vkd.forget<=0.10", "vkd.people.all.relearn.ag<=5", or "vkd.people.relearn.ag<=5" for the largest over the
    scopes. comparison.json and comparison.md in the output directory hold the result.
    """
    from vkdsurgeon.comparison.compare import Comparison, compare
    from vkdsurgeon.comparison.methods import parse_names, parse_seeds
    from vkdsurgeon.comparison.relearning import parse_scopes
    from vkdsurgeon.config import load_recipe
    from vkdsurgeon.evaluation.gates import parse_gates, raise_failures
    from vkdsurgeon.model.device import resolve_device, resolve_dtype

    overrides: dict[str, object] = {"baseline": parse_settings(baseline, "--baseline")} if baseline else {}
    resolve_dtype(dtype)
    output = Output(as_json, progress)
    asked = Comparison(
        model=model,
        methods=parse_names(methods, preset),
        forget=forget,
        retain=retain,
        out=out,
        recipe=load_recipe(recipe, overrides),
        gold=gold,
        heldout=heldout,
        retain_heldout=retain_heldout,
        text=text,
        seeds=parse_seeds(seeds),
        scopes=parse_scopes(attack_scope),
        attack_steps=attack_steps,
        limit=limit,
        gates=parse_gates(gate or []),
        device=str(resolve_device(device)),
        dtype=dtype,
        tower=tower,
        projector=projector,
        keep_models=keep_models,
    )
    result = compare(asked, output.progress)
    for warning in result.warnings:
        output.warn(warning)
    output.document(result.model_dump(mode="json"), lambda: stack(_tables(result)), kept=out)
    raise_failures(result.gates)


def _tables(result: ComparisonResult) -> list[Table]:
    from vkdsurgeon.results.comparison_table import caption, columns_of, heading, lines_of

    table = new_table(f"{result.model_type} on {result.device}")
    table.add_column("method", no_wrap=True)
    for column in columns_of(result):
        table.add_column(heading(column), justify="right")
    for name, cells in lines_of(result):
        table.add_row(name, *cells)
    table.caption, table.caption_justify = caption(result), "left"
    return [table, gate_table(result.gates)] if result.gates else [table]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare_command)
