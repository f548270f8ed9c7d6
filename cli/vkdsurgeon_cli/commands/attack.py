"""`vkdsurgeon attack`: try to bring back what a model was made to forget."""

from __future__ import annotations

import typer

from vkdsurgeon_cli.commands.attack_membership import membership_command
from vkdsurgeon_cli.commands.attack_perturb import perturb_command
from vkdsurgeon_cli.commands.attack_probe import probe_command
from vkdsurgeon_cli.commands.attack_prompt import prompt_command
from vkdsurgeon_cli.commands.attack_quantize import quantize_command
from vkdsurgeon_cli.commands.attack_relearn import relearn_command
from vkdsurgeon_cli.commands.attack_restore import restore_command


def register(app: typer.Typer) -> None:
    """Add the commands."""
    attacks = typer.Typer(
        name="attack", help="Try to bring back what a model was made to forget.", no_args_is_help=True
    )
    attacks.callback()(_attacks)
    attacks.command("relearn")(relearn_command)
    attacks.command("restore")(restore_command)
    attacks.command("probe")(probe_command)
    attacks.command("quantize")(quantize_command)
    attacks.command("perturb")(perturb_command)
    attacks.command("prompt")(prompt_command)
    attacks.command("membership")(membership_command)
    app.add_typer(attacks)


def _attacks() -> None:
    """Try to bring back what a model was made to forget; nothing but the result is ever written."""
