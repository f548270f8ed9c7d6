"""`vkdsurgeon attack prompt`: ask in other words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_options import Shared, with_attack_options
from vkdsurgeon_cli.commands.attack_shared import ForgetOption, attack_tables


@with_attack_options("prompt.worst.vqa.accuracy<=gold+0.05")
def prompt_command(
    *,
    forget: ForgetOption,
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
    shared: Shared,
) -> None:
    """Put the same questions in other words: paraphrases, role play, an answer that is made to begin as one likes.

    Rows of the result are templates, their worst (the highest of what is to be forgotten) and mean. Templates of which
    the tokenizer does not know most words are not asked, and named. Texts of templates never appear in results.
    """
    from vkdsurgeon.attacks.prompt import Prompting, prompt
    from vkdsurgeon.attacks.templates import read_templates
    from vkdsurgeon.errors import UserError

    if not builtin and templates is None:
        raise UserError("there is nothing to ask", where="--no-builtin", remedy="give --templates")
    own = read_templates(templates) if templates else []
    result = prompt(Prompting(**shared.target(forget), templates=own, builtin=builtin), shared.out.progress)
    title = f"asked in other words, {sum(each.asked for each in result.settings.templates)} templates"
    shared.conclude(result, lambda: attack_tables(result, title, first="template"))
