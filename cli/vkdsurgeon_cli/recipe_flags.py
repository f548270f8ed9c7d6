"""Every key of the recipe as a flag, made from the pydantic model so that help and validation never drift apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from vkdsurgeon.errors import UserError
from vkdsurgeon.recipe import Recipe

_NUMBERS: dict[Any, type] = {int: int, float: float, int | None: int}
_WEIGHTS = {"layers", "retain_layers", "retain_distance"}
_NO_DEFAULT = {"steps": "derived", "retain_layers": "as layers", "retain_distance": "as distance"}
_PANEL = "Recipe (each is also a key of --recipe)"


def with_recipe_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag per recipe key to a typer command.

    Args:
        command: Takes `overrides: dict[str, object]`, which receives the flags that were given.

    Returns:
        The command with the flags in its signature in place of `overrides`.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "overrides"]
    for key, field in Recipe.model_fields.items():
        flag = "--" + key.replace("_", "-")
        default = field.get_default(call_default_factory=True)
        shown = ",".join(f"{layer}={weight:g}" for layer, weight in default.items()) if key == "layers" else default
        shown = f"{shown:.3g}" if isinstance(shown, float) else _NO_DEFAULT[key] if shown is None else shown
        option = typer.Option(flag, help=f"{field.description} [default: {shown}]", rich_help_panel=_PANEL)
        kind: Any = _NUMBERS.get(field.annotation, str)
        parameters.append(
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        given = {key: arguments.pop(key) for key in Recipe.model_fields}
        overrides = {key: value for key, value in given.items() if value is not None}
        for key in _WEIGHTS & overrides.keys():
            overrides[key] = _weights(str(overrides[key]), "--" + key.replace("_", "-"))
        return command(**arguments, overrides=overrides)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _weights(text: str, flag: str) -> dict[str, float]:
    weights = {}
    for item in text.split(","):
        layer, _, weight = item.partition("=")
        try:
            weights[layer.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise UserError("not a weight", where=flag, value=item, expected="NAME=WEIGHT[,NAME=WEIGHT...]") from None
    return weights
