"""`vkdsurgeon attack prompt`: ask in other words."""

from __future__ import annotations

from pathlib import Path
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
from vkdsurgeon_cli.options import DeviceOption, JsonOption, ModelArgument, ProgressOption, SeedOption
from vkdsurgeon_cli.output import Output, ProgressMode


def prompt_command(
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    reference: ReferenceOption = None,
    gold: GoldOption = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            "--templates",
            help="YAML: a list of {name, template with {question}, and if wanted prefix (how the answer is made to "
            "begin) and task}. Names appear in results.",
        ),
    ] = None,
    builtin: Annotated[
        bool, typer.Option("--builtin/--no-builtin", help="Ask the built-in English templates too.")
    ] = True,
    limit: LimitOption = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", help='A bound such as "prompt.worst.vqa.accuracy<=gold+0.05"; missing it ends with status 3.'
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
    """Put the same questions in other words: paraphrases, role play, an answer that is made to begin as one likes.

    Rows of the result are templates, their worst (the highest of what is to be forgotten) and mean. Templates of which
    the tokenizer does not know most words are not asked, and named. Texts of templates never appear in results.
    """
    from vkdsurgeon.attacks.prompt import Prompting, prompt
    from vkdsurgeon.attacks.templates import read_templates
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.evaluation.sets import read_set

    if not builtin and templates is None:
        raise UserError("there is nothing to ask", where="--no-builtin", remedy="give --templates")
    gates = gates_of(gate, output)
    own = read_templates(templates) if templates else []
    out = Output(as_json, progress)
    attack = Prompting(
        model=model,
        forget=read_set("forget", forget),
        retain=set_if_given("retain", retain),
        reference=reference,
        gold=gold,
        templates=own,
        builtin=builtin,
        limit=limit,
        seed=seed,
        gates=gates,
        scoring=Scoring(batch_size, length_normalised, max_new_tokens),
        device=device,
        dtype=dtype,
        salt=(salt or "").encode(),
    )
    result = prompt(attack, out.progress)
    title = f"asked in other words, {sum(each.asked for each in result.settings.templates)} templates"
    conclude(result, output, out, lambda: stack(attack_tables(result, title, first="template")))
