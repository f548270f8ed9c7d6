"""`vkdsurgeon attack quantize`: send the weights through a few bits and ask again."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_options import Shared, with_attack_options
from vkdsurgeon_cli.commands.attack_shared import ForgetOption, attack_tables


class WeightScopeName(str, Enum):
    """Which weights are quantised."""

    visual = "visual"
    all = "all"


class FormatName(str, Enum):
    """Number formats."""

    int8 = "int8"
    int4 = "int4"
    nf4 = "nf4"


@with_attack_options("quantize.int4.vqa.accuracy<=gold+0.03", places=True)
def quantize_command(
    *,
    forget: ForgetOption,
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
    shared: Shared,
) -> None:
    """Round the weights to a few bits, in memory, and ask again: what an update too small for a step hides comes back.

    Symmetric, round to nearest, one scale per output channel or group of it; linear layers and convolutions, without
    norms, biases, embeddings and the output head. With --reference the result also tells which share of the changed
    visual weights falls back onto the original's code.
    """
    from vkdsurgeon.attacks.quantize import Quantizing, quantize

    attack = Quantizing(
        **shared.target(forget),
        formats=[each.value for each in formats or (FormatName.int8, FormatName.int4)],
        scope=scope.value,
        group_size=group_size,
    )
    result = quantize(attack, shared.out.progress)
    told = ", ".join(
        f"{each.format} error {100 * each.relative_error:.2g} %"
        + ("" if each.vanished is None else f", {100 * each.vanished:.0f} % of the changes gone")
        for each in result.settings.formats
    )
    title = f"weights rounded, scope {result.settings.scope} ({told})"
    shared.conclude(result, lambda: attack_tables(result, title, first="weights"))
