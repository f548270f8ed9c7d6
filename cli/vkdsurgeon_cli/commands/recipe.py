"""`vkdsurgeon recipe`: the settings of `unlearn`, listed and shown."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing, RecipeSource

if TYPE_CHECKING:
    from vkdsurgeon.config.keys import RecipeKey

KEYS_SCHEMA, RECIPE_SCHEMA = "vkdsurgeon/recipe-keys/1", "vkdsurgeon/recipe/1"


def keys(
    *,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Show only keys that contain one of these words, such as decoder."),
    ] = None,
    printing: Printing,
) -> None:
    """List all recipe keys: type, default, values in presets, and meaning.

    Set them with --set KEY=VALUE, or as lines of a YAML file for --recipe.
    """
    from vkdsurgeon.config.keys import recipe_keys
    from vkdsurgeon.errors import UserError
    from vkdsurgeon.files.problems import did_you_mean

    known = recipe_keys()
    chosen = [each for each in known if not words or any(word in each.key for word in words)]
    if not chosen:
        near = did_you_mean((words or [""])[0], [each.key for each in known])
        raise UserError(
            "no recipe key contains this word", where="recipe keys", value=" ".join(words or []), remedy=near
        )
    output = printing.sink
    document = {"schema": KEYS_SCHEMA, "keys": [asdict(each) for each in chosen]}
    output.document(document, lambda: "\n".join(line for each in chosen for line in _lines(each, output.columns)))


def show(*, source: RecipeSource, printing: Printing) -> None:
    """Print the complete recipe that a preset, a file and single settings make together, as YAML."""
    from vkdsurgeon.config.files import dump_recipe

    recipe = source.load()
    document = {"schema": RECIPE_SCHEMA, "recipe": recipe.model_dump()}
    printing.sink.document(document, lambda: dump_recipe(recipe).rstrip())


def _lines(key: RecipeKey, width: int) -> list[str]:
    presets = [f"{name} preset: {_shown(value)}" for name, value in key.presets.items()]
    facts = "; ".join([key.type, f"default: {_shown(key.default)}", *presets])
    wrapped = [
        line
        for text in (facts, key.meaning)
        for line in textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    ]
    return [key.key, *wrapped]


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return ",".join(f"{name}={weight:g}" for name, weight in value.items())
    if isinstance(value, list):
        return f"{len(value)} sentences"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="recipe",
        help="The settings of `unlearn`: list every key, or show a complete recipe.",
        short_help="The settings of `unlearn`: all keys, or a complete recipe.",
        epilog="Example: vkdsurgeon recipe keys decoder",
        no_args_is_help=True,
    )
    add_command(
        group,
        "keys",
        keys,
        "recipe keys",
        "recipe keys decoder",
        "recipe keys --json",
        summary="List all recipe keys with type, default, presets and meaning.",
    )
    add_command(
        group,
        "show",
        show,
        "recipe show --preset robust",
        "recipe show --preset robust --set density=0.5 > recipe.yaml",
        summary="Print the complete recipe of a preset, a file and single settings.",
    )
    app.add_typer(group)
