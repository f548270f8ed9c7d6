"""`vkdsurgeon attack membership`: tell from likelihoods what was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import Others, RetainOption, attack_sheets, target
from vkdsurgeon_cli.measuring import Answering, Results
from vkdsurgeon_cli.options import ModelArgument


def membership_command(
    *,
    model: ModelArgument,
    forget: Annotated[
        Path, typer.Option("--forget", metavar="SET", help="The members: what the original was trained on.")
    ],
    nonmembers: Annotated[
        Path,
        typer.Option("--nonmembers", metavar="SET", help="Like questions on images that no model was trained on."),
    ],
    retain: RetainOption = None,
    k: Annotated[
        float, typer.Option("--k", metavar="PERCENT", help="Min-K%: the answer's tokens that count, the least likely.")
    ] = 20.0,
    others: Others,
    answering: Answering,
    results: Results,
) -> None:
    """Tell members (the forget set) from non-members by the likelihood of the right answers.

    Scores are the mean log-likelihood of an answer's tokens (loss) and that of its least likely k percent (min_k). An
    AUC near 0.5 is good: far below it, too, tells the members. Gold, which saw neither set, shows what the two sets
    differ in by themselves.
    """
    from vkdsurgeon.errors import UserError

    if not 0.0 < k <= 100.0:
        raise UserError("out of range", where="--k", value=k, expected="above 0, at most 100 percent")
    out = results.begin()
    from vkdsurgeon.attacks.membership import Inferring, membership
    from vkdsurgeon.data.sets import read_set

    fields = target(model, forget, retain, others, answering, results)
    result = membership(Inferring(**fields, nonmembers=read_set("nonmembers", nonmembers), k_percent=k), out.progress)
    title = f"{result.settings.members} members against {result.settings.nonmembers} non-members, by score"
    results.conclude(result, lambda: attack_sheets(result, title, first="score"))
