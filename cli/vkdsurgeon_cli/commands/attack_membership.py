"""`vkdsurgeon attack membership`: tell from likelihoods and gradients what was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument


def membership_command(
    *,
    model: ModelArgument,
    forget: Annotated[
        Path, typer.Option("--forget", metavar="SET", help="The members: records the base was trained on.")
    ],
    nonmembers: Annotated[
        Path,
        typer.Option("--nonmembers", metavar="SET", help="Similar questions on images no model was trained on."),
    ],
    retain: RetainOption = None,
    k: Annotated[
        float,
        typer.Option("--k", metavar="PERCENT", help="For Min-K%: share of the answer's tokens, least likely first."),
    ] = 20.0,
    gradient: Annotated[
        bool, typer.Option("--gradient/--no-gradient", help="Also score by the gradient's norm, question by question.")
    ] = True,
    others: ComparedModels,
    answering: Answering,
    results: Results,
) -> None:
    """Tell members (the forget set) from non-members by the right answers' likelihood and gradient.

    The scores are the mean log-likelihood of an answer's tokens (loss), and of its least likely k percent (min_k); the
    same standardised over the vocabulary (min_k_plus, Min-K%++); the log-likelihood per compressed byte (zlib); and
    minus the norm of the loss' gradient over every weight (grad_norm). An AUC near 0.5 is good; a low AUC also gives
    the members away; ks is the largest distance between the two distributions of a score. Gold was trained on neither
    set, so its AUC shows how much the two sets differ by themselves.
    """
    results.begin()
    own = {"nonmembers": nonmembers, "k_percent": k, "gradient": gradient}
    result = run("membership", model, (forget, retain), others, answering, results, own)
    title = f"{result.settings.members} members against {result.settings.nonmembers} non-members, by score"
    results.conclude(result, lambda: attack_sheets(result, title, first="score"))
