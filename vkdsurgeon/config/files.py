"""Recipes as YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vkdsurgeon.config.keys import SECTIONS, suggestion
from vkdsurgeon.config.preset import preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.yaml import read_mapping
from vkdsurgeon.errors import UserError


def load_recipe(path: Path | None, overrides: dict[str, object], preset: str | None = None) -> Recipe:
    """Lay a recipe file over a preset, and the command line's settings over both.

    Args:
        path: YAML mapping; None for the defaults.
        overrides: Settings that win, by key.
        preset: Name of a preset (`preset.preset_names`); None for the defaults.

    Raises:
        UserError: There is no such preset, the file cannot be read or parsed, a key is unknown or a value out of range.
    """
    settings: dict[str, Any] = {} if preset is None else preset_settings(preset)
    where = "recipe"
    if path is not None:
        where = str(path)
        settings = lay_over(settings, read_mapping(path, "recipe"))
    return validated(lay_over(settings, overrides), where)


def validated(settings: Mapping[str, object], where: str) -> Recipe:
    """The recipe of settings.

    Args:
        settings: By recipe key.
        where: Where they come from, for messages.

    Raises:
        UserError: A key is unknown or a value out of range.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        inside = SECTIONS.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        fields = (inside or Recipe).model_fields
        own = str(first["loc"][1] if fields is not Recipe.model_fields else (first["loc"] or ("",))[0])
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"unknown key {key!r} in the recipe",
                where=where,
                expected="one of " + ", ".join(fields),
                remedy=suggestion(own, fields) or "`vkdsurgeon recipe keys` lists all keys",
            ) from None
        raise UserError(
            f"recipe key {key!r}: {first['msg'].lower()}",
            where=where,
            value=first["input"],
            expected=fields[own].description if own in fields else None,
        ) from None


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings; the keys of a section count one by one."""
    merged = {**below, **above}
    for name in SECTIONS:
        lower, upper = below.get(name), above.get(name)
        if isinstance(lower, dict) and isinstance(upper, dict):
            merged[name] = lower | upper
    return merged


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe as YAML, readable by `load_recipe`."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False)
