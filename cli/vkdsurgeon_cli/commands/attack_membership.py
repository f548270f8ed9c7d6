"""`vkdsurgeon attack membership`: tell from likelihoods what was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import (
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
from vkdsurgeon_cli.options import DeviceOption, JsonOption, ModelArgument, ProgressOption, SeedOption
from vkdsurgeon_cli.output import Output, ProgressMode


def membership_command(
    model: ModelArgument,
    forget: Annotated[Path, typer.Option("--forget", help="The members: what the original was trained on.")],
    nonmembers: Annotated[
        Path,
        typer.Option("--nonmembers", help="Like questions on pictures that no model was trained on, as other views."),
    ],
    retain: RetainOption = None,
    reference: ReferenceOption = None,
    gold: GoldOption = None,
    k: Annotated[
        float, typer.Option("--k", help="Percent of the answer's tokens, the least likely ones, for Min-K%.")
    ] = 20.0,
    limit: LimitOption = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", help='A bound such as "membership.loss.advantage<=gold+0.1"; missing it ends with status 3.'
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
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Tell members (the forget set) from non-members by the likelihood of the right answers.

    Scores are the mean log-likelihood of an answer's tokens (loss) and that of its least likely k percent (min_k). An
    AUC near 0.5 is good: far below it, too, tells the members. Gold, which saw neither set, shows what the two sets
    differ in by themselves.
    """
    from vkdsurgeon.attacks.membership import Inferring, membership
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.evaluation.sets import read_set

    if not 0.0 < k <= 100.0:
        raise UserError("out of range", where="--k", value=k, expected="above 0, at most 100 percent")
    gates = gates_of(gate, output)
    out = Output(as_json, progress)
    attack = Inferring(
        model=model,
        forget=read_set("forget", forget),
        nonmembers=read_set("nonmembers", nonmembers),
        retain=set_if_given("retain", retain),
        reference=reference,
        gold=gold,
        k_percent=k,
        limit=limit,
        seed=seed,
        gates=gates,
        scoring=Scoring(batch_size, length_normalised, max_new_tokens),
        device=device,
        dtype=dtype,
        salt=(salt or "").encode(),
    )
    result = membership(attack, out.progress)
    title = f"{result.settings.members} members against {result.settings.nonmembers} non-members, by score"
    conclude(result, output, out, lambda: stack(attack_tables(result, title, first="score")))
