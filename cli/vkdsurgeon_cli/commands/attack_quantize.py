"""`vkdsurgeon attack quantize`: send the weights through a few bits and ask again."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import (
    ForgetOption,
    GoldOption,
    LimitOption,
    ReferenceOption,
    RetainOption,
    attack_tables,
)
from vkdsurgeon_cli.commands.eval_ import (
    BatchOption,
    DtypeOption,
    NormalisedOption,
    OutputOption,
    SaltOption,
    TokensOption,
    conclude,
    gates_of,
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


class WeightScopeName(str, Enum):
    """Which weights are quantised."""

    visual = "visual"
    all = "all"


class FormatName(str, Enum):
    """Number formats."""

    int8 = "int8"
    int4 = "int4"
    nf4 = "nf4"


def quantize_command(
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    reference: ReferenceOption = None,
    gold: GoldOption = None,
    scope: Annotated[
        WeightScopeName, typer.Option("--scope", help="visual: tower and projector. all: the language model too.")
    ] = WeightScopeName.visual,
    formats: Annotated[
        list[FormatName] | None,
        typer.Option("--format", help="int8, int4 or nf4; more than once for several. Otherwise int8 and int4."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            min=0,
            help="Weights of an output channel that share a scale; 0 for all of them. Otherwise 0, and 64 for nf4.",
        ),
    ] = None,
    limit: LimitOption = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", help='A bound such as "quantize.int4.vqa.accuracy<=gold+0.03"; missing it ends with status 3.'
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
    """Round the weights to a few bits, in memory, and ask again: what an update too small for a step hides comes back.

    Symmetric, round to nearest, one scale per output channel or group of it; linear layers and convolutions, without
    norms, biases, embeddings and the output head. With --reference the result also tells which share of the changed
    visual weights falls back onto the original's code.
    """
    from vkdsurgeon.attacks.quantize import Quantizing, quantize
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.evaluation.sets import read_set

    gates = gates_of(gate, output)
    out = Output(as_json, progress)
    attack = Quantizing(
        model=model,
        forget=read_set("forget", forget),
        retain=set_if_given("retain", retain),
        reference=reference,
        gold=gold,
        formats=[each.value for each in formats or (FormatName.int8, FormatName.int4)],
        scope=scope.value,
        group_size=group_size,
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
    result = quantize(attack, out.progress)
    told = ", ".join(
        f"{each.format} error {100 * each.relative_error:.2g} %"
        + ("" if each.vanished is None else f", {100 * each.vanished:.0f} % of the changes gone")
        for each in result.settings.formats
    )
    title = f"weights rounded, scope {result.settings.scope} ({told})"
    conclude(result, output, out, lambda: stack(attack_tables(result, title, first="weights")))
