"""`vkdsurgeon attack membership`: tell from likelihoods what was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_options import Shared, with_attack_options
from vkdsurgeon_cli.commands.attack_shared import attack_tables


@with_attack_options("membership.loss.advantage<=gold+0.1")
def membership_command(
    *,
    forget: Annotated[Path, typer.Option("--forget", help="The members: what the original was trained on.")],
    nonmembers: Annotated[
        Path,
        typer.Option("--nonmembers", help="Like questions on pictures that no model was trained on, as other views."),
    ],
    k: Annotated[
        float, typer.Option("--k", help="Percent of the answer's tokens, the least likely ones, for Min-K%.")
    ] = 20.0,
    shared: Shared,
) -> None:
    """Tell members (the forget set) from non-members by the likelihood of the right answers.

    Scores are the mean log-likelihood of an answer's tokens (loss) and that of its least likely k percent (min_k). An
    AUC near 0.5 is good: far below it, too, tells the members. Gold, which saw neither set, shows what the two sets
    differ in by themselves.
    """
    from vkdsurgeon.attacks.membership import Inferring, membership
    from vkdsurgeon.data.sets import read_set
    from vkdsurgeon.errors import UserError

    if not 0.0 < k <= 100.0:
        raise UserError("out of range", where="--k", value=k, expected="above 0, at most 100 percent")
    target = shared.target(forget)
    attack = Inferring(**target, nonmembers=read_set("nonmembers", nonmembers), k_percent=k)
    result = membership(attack, shared.out.progress)
    title = f"{result.settings.members} members against {result.settings.nonmembers} non-members, by score"
    shared.conclude(result, lambda: attack_tables(result, title, first="score"))
