"""Recipes as YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vkdsurgeon.config.keys import SECTIONS
from vkdsurgeon.config.preset import preset_settings
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.yaml import read_mapping
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import did_you_mean, first_problem


def load_recipe(path: Path | None, overrides: dict[str, object], preset: str | None = None) -> Recipe:
    """Make a recipe from a preset, a file and single settings. Settings override the file, the file the preset.

    Args:
        path: A YAML file; None for no file.
        overrides: Settings by recipe key, such as those of the command line.
        preset: Name of a preset (`preset.preset_names`); None starts from the defaults.

    Raises:
        UserError: The preset or a key is unknown, the file cannot be read or parsed, or a value is out of range.
    """
    settings: dict[str, Any] = {} if preset is None else preset_settings(preset)
    where = "recipe"
    if path is not None:
        where = str(path)
        settings = lay_over(settings, read_mapping(path, "recipe"))
    return validated(lay_over(settings, overrides), where)


def validated(settings: Mapping[str, object], where: str) -> Recipe:
    """Check settings and make a recipe from them.

    Args:
        settings: Values by recipe key.
        where: Where they come from, for error messages.

    Raises:
        UserError: A key is unknown, or a value is out of range.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problem = first_problem(error)
        section = str(problem.path[0]) if len(problem.path) > 1 else ""
        fields = SECTIONS.get(section, Recipe).model_fields
        own = str(problem.path[1] if section in SECTIONS else (problem.path or ("",))[0])
        if problem.unknown_key:
            raise UserError(
                f"unknown key {problem.key!r} in the recipe",
                where=where,
                expected="one of " + ", ".join(fields),
                remedy=did_you_mean(own, fields) or "`vkdsurgeon recipe keys` lists all keys",
            ) from None
        raise UserError(
            f"recipe key {problem.key!r}: {problem.message}",
            where=where,
            value=problem.value,
            expected=fields[own].description if own in fields else None,
        ) from None


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top, which override them. Sections are merged key by key."""
    merged = {**below, **above}
    for name in SECTIONS:
        lower, upper = below.get(name), above.get(name)
        if isinstance(lower, dict) and isinstance(upper, dict):
            merged[name] = lower | upper
    return merged


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe as YAML, readable by `load_recipe`."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False)
