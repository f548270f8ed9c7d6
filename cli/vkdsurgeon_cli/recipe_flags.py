"""Every key of the recipe as a flag, made from the pydantic model so that help and validation never drift apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from vkdsurgeon.config import DecoderRecipe, Recipe
from vkdsurgeon.errors import UserError

_NUMBERS: dict[Any, type] = {int: int, float: float, int | None: int, float | None: float}
_WEIGHTS = {"layers", "retain_layers", "retain_distance"}
_NO_DEFAULT = {
    "steps": "derived",
    "retain_layers": "as layers",
    "retain_distance": "as distance",
    "step_size": "measured",
}
_PANEL = "Recipe (each is also a key of --recipe)"
_DECODER_PANEL = "Decoder pass (each is also a key of the section `decoder` of --recipe)"
_DECODER, _PASS = "decoder", "decoder_pass"
# Sections without flags of their own: the other methods are set up in a recipe file.
_UNFLAGGED = {_DECODER, "baseline"}


def with_recipe_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag per recipe key to a typer command.

    Args:
        command: Takes `overrides: dict[str, object]`, which receives the flags that were given.

    Returns:
        The command with the flags in its signature in place of `overrides`.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in ("overrides", _PASS)]
    own = [key for key in Recipe.model_fields if key not in _UNFLAGGED]
    nested = {f"{_DECODER}_{key}": key for key in DecoderRecipe.model_fields}
    parameters += [_flag(key, Recipe.model_fields[key], _PANEL) for key in own]
    asked = typer.Option(
        "--decoder-pass",
        help="After the visual pass, teach the language model that the original features of the forget pictures mean "
        "nobody: the matrices of its attention change, or what --decoder-blocks and --decoder-density say. Without it, "
        "W stays byte-identical.",
        rich_help_panel=_DECODER_PANEL,
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter(_PASS, keyword, default=False, annotation=Annotated[bool, asked]))
    parameters += [_flag(name, DecoderRecipe.model_fields[key], _DECODER_PANEL) for name, key in nested.items()]

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        overrides = {key: value for key in own if (value := arguments.pop(key)) is not None}
        section = {key: value for name, key in nested.items() if (value := arguments.pop(name)) is not None}
        for key in _WEIGHTS & overrides.keys():
            overrides[key] = _weights(str(overrides[key]), "--" + key.replace("_", "-"))
        if arguments.pop(_PASS):
            overrides[_DECODER] = section
        elif section:
            raise UserError(
                "a setting of the decoder pass without --decoder-pass",
                where="--decoder-" + next(iter(section)).replace("_", "-"),
                expected="--decoder-pass beside it: the language model is never edited unasked",
            )
        return command(**arguments, overrides=overrides)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _flag(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    default = field.get_default(call_default_factory=True)
    shown = ",".join(f"{layer}={weight:g}" for layer, weight in default.items()) if name == "layers" else default
    shown = f"{shown:.3g}" if isinstance(shown, float) else _NO_DEFAULT.get(name, "none") if shown is None else shown
    flag = "--" + name.replace("_", "-")
    option = typer.Option(flag, help=f"{field.description} [default: {shown}]", rich_help_panel=panel)
    kind: Any = _NUMBERS.get(field.annotation, str)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _weights(text: str, flag: str) -> dict[str, float]:
    weights = {}
    for item in text.split(","):
        layer, _, weight = item.partition("=")
        try:
            weights[layer.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise UserError("not a weight", where=flag, value=item, expected="NAME=WEIGHT[,NAME=WEIGHT...]") from None
    return weights
