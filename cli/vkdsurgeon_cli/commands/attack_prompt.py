"""`vkdsurgeon attack prompt`: ask in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument


def prompt_command(
    *,
    model: ModelArgument,
    forget: ForgetOption,
    retain: RetainOption = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            "--templates",
            metavar="FILE",
            help="YAML: a list of {name, template with {question}, optionally prefix (the start of the answer) "
            "and task}. Names appear in results.",
        ),
    ] = None,
    builtin: Annotated[
        bool, typer.Option("--builtin/--no-builtin", help="Also use the built-in English templates.")
    ] = True,
    others: ComparedModels,
    answering: Answering,
    results: Results,
) -> None:
    """Ask the same questions in other words: paraphrases, role play, or a given start of the answer.

    Each row of the result is a template; worst (the highest score on the forget set) and mean summarise them. Templates
    with mostly unknown words for the tokenizer are skipped, with a warning. The text of templates never appears in
    results.
    """
    results.begin()
    own = {"templates": templates, "builtin": builtin}
    result = run("prompt", model, (forget, retain), others, answering, results, own)
    title = f"asked in other words, {sum(each.asked for each in result.settings.templates)} templates"
    results.conclude(result, lambda: attack_sheets(result, title, first="template"))
