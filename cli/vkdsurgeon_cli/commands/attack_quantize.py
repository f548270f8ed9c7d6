"""`vkdsurgeon attack quantize`: send the weights through a few bits and ask again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument, Parts


class WeightScopeName(str, Enum):
    """Which weights are quantised."""

    visual = "visual"
    all = "all"


class FormatName(str, Enum):
    """Number formats."""

    int8 = "int8"
    int4 = "int4"
    nf4 = "nf4"


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How weights are rounded."""

    scope: Annotated[
        WeightScopeName,
        typer.Option("--scope", metavar="PART", help="visual: tower and projector. all: the language model too."),
    ] = WeightScopeName.visual
    formats: Annotated[
        list[FormatName] | None,
        typer.Option(
            "--format", metavar="NAME", help="int8, int4 or nf4; repeat for several. [default: int8 and int4]"
        ),
    ] = None
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="N",
            min=0,
            help="Weights per scale, within an output channel; 0 for the whole channel. [default: 0, and 64 for nf4]",
        ),
    ] = None
    panel: ClassVar[str] = "Attack"


def quantize_command(
    *,
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    rounding: Rounding,
    others: ComparedModels,
    parts: Parts,
    answering: Answering,
    results: Results,
) -> None:
    """Quantize the weights in memory, and ask again: a change smaller than a quantization step is undone.

    Quantization is symmetric, to the nearest value, with one scale per output channel or group of weights in it. It
    applies to linear layers and convolutions, not to norms, biases, embeddings and the output head. With --base the
    result also shows which share of the changed visual weights is rounded to the same value as the original.
    """
    results.begin()
    own = {
        "formats": [each.value for each in rounding.formats or (FormatName.int8, FormatName.int4)],
        "scope": rounding.scope.value,
        "group_size": rounding.group_size,
    }
    result = run("quantize", model, (forget, retain), others, answering, results, own, parts)
    told = ", ".join(
        f"{each.format} error {100 * each.relative_error:.2g} %"
        + ("" if each.vanished is None else f", {100 * each.vanished:.0f} % of the changes gone")
        for each in result.settings.formats
    )
    title = f"weights rounded, scope {result.settings.scope} ({told})"
    results.conclude(result, lambda: attack_sheets(result, title, first="weights"))
