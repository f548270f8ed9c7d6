"""`vkdsurgeon attack`: try to bring back what a model was made to forget."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vkdsurgeon_cli.commands.attack_membership import membership_command
from vkdsurgeon_cli.commands.attack_perturb import perturb_command
from vkdsurgeon_cli.commands.attack_probe import probe_command
from vkdsurgeon_cli.commands.attack_prompt import prompt_command
from vkdsurgeon_cli.commands.attack_quantize import quantize_command
from vkdsurgeon_cli.commands.attack_restore import restore_command
from vkdsurgeon_cli.commands.eval_ import (
    DtypeOption,
    NormalisedOption,
    OutputOption,
    SaltOption,
    TokensOption,
    conclude,
    gate_table,
    new_table,
    percent,
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
    from vkdsurgeon.attacks.schema import RelearnResult


AG = "relearn.ag"
STAGES = ("before", "after")


class ProtocolName(str, Enum):
    """What is shown to the attacker and what is measured."""

    people = "people"
    pairs = "pairs"


class ScopeName(str, Enum):
    """What the attacker may train."""

    visual = "visual"
    all = "all"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    attacks = typer.Typer(
        name="attack", help="Try to bring back what a model was made to forget.", no_args_is_help=True
    )
    attacks.callback()(_attacks)
    attacks.command("relearn")(relearn_command)
    attacks.command("restore")(restore_command)
    attacks.command("probe")(probe_command)
    attacks.command("quantize")(quantize_command)
    attacks.command("perturb")(perturb_command)
    attacks.command("prompt")(prompt_command)
    attacks.command("membership")(membership_command)
    app.add_typer(attacks)


def _attacks() -> None:
    """Try to bring back what a model was made to forget; nothing but the result is ever written."""


def relearn_command(
    model: ModelArgument,
    forget: Annotated[Path, typer.Option("--forget", help="What was to be forgotten: questions about pictures.")],
    heldout: Annotated[
        Path | None, typer.Option("--heldout", help="Other views of the same subjects, to measure on.")
    ] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="What utility is measured on.")] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model that never saw the forget set; attacked in the same way.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The model before unlearning; measured as the ceiling.")
    ] = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            "--protocol",
            help="people: relearn some subjects, measure the others. pairs: relearn some kinds of question of every "
            "subject, measure the others.",
        ),
    ] = ProtocolName.people,
    fraction: Annotated[
        float, typer.Option("--fraction", min=0.0, max=1.0, help="Share of subjects, or of their tasks, relearned.")
    ] = 0.5,
    scope: Annotated[
        ScopeName, typer.Option("--scope", help="visual: the attacker trains tower and projector. all: every weight.")
    ] = ScopeName.visual,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 15,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate of AdamW; decays linearly to zero.")] = 3e-4,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Records per step.")] = 32,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many retain questions.")] = 500,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help='A bound such as "gap.relearn.ag<=5" (points); missing it ends with status 3.'),
    ] = None,
    output: OutputOption = None,
    salt: SaltOption = None,
    length_normalised: NormalisedOption = False,
    max_new_tokens: TokensOption = 64,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Fine-tune on a part of what was forgotten and measure what comes back of the rest.

    The result is AG (relearn.ag), in points from 0 to 100: the mean of after minus before over the metrics of the
    measured part. It depends on protocol, scope and budget, so they are always printed with it, and utility beside it.
    """
    from vkdsurgeon.attacks.relearn import Relearning, relearn
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.evaluation.schema import check_writable
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.evaluation.sets import read_set

    if not 0.0 < lr <= 1.0:
        raise UserError("the learning rate is out of range", where="--lr", value=lr, expected="above 0, at most 1")
    gates = parse_gates(gate or [])
    if output is not None:
        check_writable(output)
    out = Output(as_json, progress)
    attack = Relearning(
        model=model,
        forget=read_set("forget", forget),
        heldout=read_set("heldout", heldout) if heldout else None,
        retain=read_set("retain", retain) if retain else None,
        reference=reference,
        gold=gold,
        protocol=protocol.value,
        fraction=fraction,
        scope=scope.value,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        limit=limit,
        gates=gates,
        scoring=Scoring(length_normalised=length_normalised, max_new_tokens=max_new_tokens),
        device=device,
        dtype=dtype,
        tower=tower,
        projector=projector,
        salt=(salt or "").encode(),
    )
    result = relearn(attack, out.progress)
    conclude(result, output, out, lambda: stack(_tables(result)))


def _tables(result: RelearnResult) -> list[Table]:
    tables = [_summary(result), _curve(result)]
    return [*tables, gate_table(result.gates)] if result.gates else tables


def _summary(result: RelearnResult) -> Table:
    settings, values = result.settings, {metric.id: metric.value for metric in result.metrics}
    title = (
        f"relearning, protocol {settings.protocol}, {100 * settings.fraction:g} % shown, scope {settings.scope}, "
        f"{settings.steps} steps at {settings.lr:g}\n"
        f"shown {settings.shown_records} questions on {settings.shown_subjects} subjects, measured "
        f"{settings.measured_records} on {settings.measured_subjects} ({settings.measured_on} set); percent"
    )
    table = new_table(title)
    roles = [("", "model"), ("gold.", "gold")] if f"gold.{AG}" in values else [("", "model")]
    table.add_column("metric", no_wrap=True)
    for _, role in roles:
        for column in ("before", "after"):
            table.add_column(f"{role} {column}" if len(roles) > 1 else column, justify="right")
    ceiling = any(name.startswith("reference.") for name in values)
    if ceiling:
        table.add_column("reference", justify="right")
    for part, shown in (("relearn", "measured"), ("relearn.retain", "retain")):
        start = f"{part}.before."
        for name in (name for name in values if name.startswith(start)):
            rest = name.removeprefix(start)
            pairs = [percent(values[f"{prefix}{part}.{stage}.{rest}"]) for prefix, _ in roles for stage in STAGES]
            table.add_row(f"{shown}.{rest}", *pairs, *([_or_blank(values, f"reference.{name}")] if ceiling else []))
    ags = [f"{values[f'{prefix}{AG}']:+.1f}" if values[f"{prefix}{AG}"] is not None else "n/a" for prefix, _ in roles]
    table.add_section()
    table.add_row("AG, points", *(cell for ag in ags for cell in ("", ag)))
    return table


def _curve(result: RelearnResult) -> Table:
    names = list(result.curve[0].values)
    table = new_table("over the steps, percent")
    for column in ("model", "step", "loss", *names):
        table.add_column(column, justify="left" if column == "model" else "right")
    for point in result.curve:
        loss = "" if point.loss is None else f"{point.loss:.3f}"
        table.add_row(point.model, str(point.step), loss, *(percent(point.values[name]) for name in names))
    return table


def _or_blank(values: dict[str, float | None], name: str) -> str:
    return percent(values[name]) if name in values else ""
