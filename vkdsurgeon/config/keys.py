"""The keys of a recipe as people read them: type, default, presets, meaning; and settings given key by key."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.preset import preset_names, preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.yaml import read_value
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import did_you_mean

SECTIONS: dict[str, type[DecoderRecipe] | type[BaselineRecipe]] = {"decoder": DecoderRecipe, "baseline": BaselineRecipe}
_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class RecipeKey:
    """One key of the recipe.

    Attributes:
        key: Dotted where it lies in a section, such as `decoder.steps`.
        type: What it takes: `number`, `integer or null`, or the words it knows, such as `all | attention | mlp`.
        default: Its value unless something else is asked for.
        presets: Preset -> value, where a preset sets it.
        meaning: What it does, in a sentence or two.
    """

    key: str
    type: str
    default: Any
    presets: dict[str, Any]
    meaning: str


def recipe_keys() -> list[RecipeKey]:
    """Every key, in the order of the recipe; the sections come last."""
    presets = {name: preset_settings(name) for name in preset_names()}
    found = []
    for key, field in _fields().items():
        chosen = {name: _at(settings, key) for name, settings in presets.items()}
        told = {name: value for name, value in chosen.items() if value is not _MISSING}
        default = field.get_default(call_default_factory=True)
        found.append(RecipeKey(key, _type_of(field.annotation), default, told, field.description or ""))
    return found


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings given as KEY=VALUE words, sections dotted, as `load_recipe` takes them.

    Args:
        pairs: The words, such as `density=0.5` or `decoder.steps=200`; the last of equal keys counts.

    Raises:
        UserError: A word is no such pair, its key is unknown, or its value is no value of that kind.
    """
    fields = _fields()
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        key = key.strip()
        if not sign or not key:
            raise UserError("not a setting", where=_OPTION, value=pair, expected="KEY=VALUE")
        if key not in fields:
            raise _unknown(key, fields)
        section, _, own = key.rpartition(".")
        place = settings.setdefault(section, {}) if section else settings
        place[own] = _value(text.strip(), fields[key], pair)
    return settings


def _unknown(key: str, fields: Mapping[str, FieldInfo]) -> UserError:
    if key in SECTIONS:
        inside = next(each for each in fields if each.startswith(f"{key}."))
        return UserError(
            f"{key!r} is a section, not a key", where=_OPTION, expected=f"one of its keys, such as {inside}"
        )
    # `steps` is a key of the recipe and of both sections: a word misspelt inside a section is looked for there first.
    own = key.rpartition(".")[2]
    elsewhere = [each for each in fields if each.rpartition(".")[2] == own]
    told = f"did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else did_you_mean(key, fields)
    listed = "`vkdsurgeon recipe keys` lists all keys"
    return UserError(f"unknown key {key!r} in the recipe", where=_OPTION, remedy=f"{told} {listed}" if told else listed)


def _value(text: str, field: FieldInfo, pair: str) -> Any:
    annotation = field.annotation
    try:
        value = read_value(text)
    except yaml.YAMLError:
        value = text
    if value is None and text and type(None) not in _parts(annotation):
        value = text
    if isinstance(value, bool) and bool not in _parts(annotation):
        # YAML takes the words on and off for truth values.
        return text
    if _takes_weights(annotation) and isinstance(value, str):
        return _weights(text, pair)
    return value


def _weights(text: str, pair: str) -> dict[str, float]:
    weights = {}
    for item in text.split(","):
        name, _, weight = item.partition("=")
        try:
            weights[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            raise UserError(
                "not a weight", where=_OPTION, value=pair, expected="KEY=NAME[=WEIGHT][,NAME=WEIGHT...]"
            ) from None
    return weights


def _fields() -> dict[str, FieldInfo]:
    own = {key: field for key, field in Recipe.model_fields.items() if key not in SECTIONS}
    nested = {f"{name}.{key}": field for name, model in SECTIONS.items() for key, field in model.model_fields.items()}
    return {**own, **nested}


_OPTION = "--set"
_MISSING = object()


def _at(settings: Mapping[str, Any], key: str) -> Any:
    section, _, own = key.rpartition(".")
    inside = settings.get(section) or {} if section else settings
    return inside.get(own, _MISSING)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _takes_weights(annotation: Any) -> bool:
    return any(get_origin(part) is dict for part in _parts(annotation))


def _type_of(annotation: Any) -> str:
    told = []
    for part in _parts(annotation):
        origin = get_origin(part)
        if origin is Literal:
            told.append(" | ".join(map(str, get_args(part))))
        elif origin is dict:
            told.append("weights by name")
        elif origin is list:
            told.append("list of text")
        else:
            told.append(_TYPES.get(part, str(part)))
    return " or ".join(told)
