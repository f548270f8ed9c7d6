"""Recipes as YAML files."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from vkdsurgeon.errors import UserError
from vkdsurgeon.recipe.decoder import DecoderRecipe
from vkdsurgeon.recipe.preset import preset_settings
from vkdsurgeon.recipe.whole import Recipe


def load_recipe(path: Path | None, overrides: dict[str, object], preset: str | None = None) -> Recipe:
    """Lay a recipe file over a preset, and the command line's settings over both.

    Args:
        path: YAML mapping; None for the defaults.
        overrides: Settings that win, by key.
        preset: Name of a preset (`preset.preset_names`); None for the defaults.

    Raises:
        UserError: There is no such preset, the file cannot be read or parsed, a key is unknown or a value out of range.
    """
    settings: dict[str, object] = {} if preset is None else preset_settings(preset)
    where = "recipe"
    if path is not None:
        where = str(path)
        try:
            loaded = _parse(path.read_text(encoding="utf-8"), path)
        except OSError as error:
            raise UserError(f"cannot read the recipe: {error.strerror}", where=path) from error
        except UserError:
            raise
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError("the recipe is not YAML", where=path, value=" ".join(str(error).split())) from error
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError("the recipe is not a mapping", where=path, value=loaded, expected="lines of `key: value`")
        settings = _over(settings, loaded or {})
    settings = _over(settings, overrides)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        fields = (DecoderRecipe if first["loc"][:1] == ("decoder",) and len(first["loc"]) > 1 else Recipe).model_fields
        own = str(first["loc"][1] if fields is not Recipe.model_fields else (first["loc"] or ("",))[0])
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"unknown key {key!r} in the recipe",
                where=where,
                expected="one of " + ", ".join(fields),
                remedy="check the spelling; nothing is guessed",
            ) from None
        raise UserError(
            f"recipe key {key!r}: {first['msg'].lower()}",
            where=where,
            value=first["input"],
            expected=fields[own].description if own in fields else None,
        ) from None


def _over(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    """Settings over settings; the keys of the section `decoder` count one by one."""
    lower, upper = below.get("decoder"), above.get("decoder")
    if isinstance(lower, dict) and isinstance(upper, dict):
        above = {**above, "decoder": lower | upper}
    return below | above


def _parse(text: str, path: Path) -> object:
    # An alias can make a short file unfold without end; a recipe needs none. Of two equal keys one would vanish.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise UserError("a recipe has no use for YAML aliases", where=path, remedy="write the value out")
    node = yaml.compose(text)
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"the recipe has key {key!r} twice", where=path, remedy="keep one of them")
        if any(not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str" for key, _ in node.value):
            raise UserError("a key of the recipe is no word", where=path, expected="lines of `key: value`")
    return yaml.safe_load(text)


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe as YAML, readable by `load_recipe`."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False)
