"""`vkdsurgeon attack prompt`: ask in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, Others, RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, Results
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
            help="YAML: a list of {name, template with {question}, and if wanted prefix (how the answer is made to "
            "begin) and task}. Names appear in results.",
        ),
    ] = None,
    builtin: Annotated[
        bool, typer.Option("--builtin/--no-builtin", help="Ask the built-in English templates too.")
    ] = True,
    others: Others,
    answering: Answering,
    results: Results,
) -> None:
    """Put the same questions in other words: paraphrases, role play, an answer that is made to begin as one likes.

    Rows of the result are templates, their worst (the highest of what is to be forgotten) and mean. Templates of which
    the tokenizer does not know most words are not asked, and named. Texts of templates never appear in results.
    """
    results.begin()
    own = {"templates": templates, "builtin": builtin}
    result = run("prompt", model, (forget, retain), others, answering, results, own)
    title = f"asked in other words, {sum(each.asked for each in result.settings.templates)} templates"
    results.conclude(result, lambda: attack_sheets(result, title, first="template"))
