"""The recipe of each compared method: the user's settings, and those of the variant."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vkdsurgeon.baselines.registry import BASELINES, VKD
from vkdsurgeon.comparison.methods import ComparedMethod
from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.files import lay_over, validated
from vkdsurgeon.config.recipe import Recipe


def recipe_of(each: ComparedMethod, recipe: Recipe) -> dict[str, Any]:
    """The recipe of one method: the user's settings and those of its variant; the method derives the rest.

    A preset lies under the user's settings, as `unlearn --preset` has it. Sections reach only who they are about:
    `baseline` other methods and output mode, `decoder` methods with a decoder pass.

    Args:
        each: The method.
        recipe: The user's settings.

    Raises:
        UserError: Together they are no recipe.
    """
    settings = recipe.model_dump(exclude_unset=True)
    if each.method != VKD:
        settings = {"baseline": settings["baseline"]} if settings.get("baseline") else {}
    elif "output_loss" not in each.overrides:
        settings.pop("baseline", None)
        settings.pop("output_loss", None)
    if "decoder" not in each.preset:
        settings.pop("decoder", None)
    together = lay_over(lay_over(each.preset, settings), each.overrides)
    return validated(together, f"recipe of {each.name}").model_dump(exclude_unset=True)


def effective(each: ComparedMethod, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with its defaults, which decide as well and may change between versions."""
    if each.method in BASELINES:
        settings = BaselineRecipe.model_validate(recipe.get("baseline") or {})
        return {**asdict(BASELINES[each.method]), **settings.model_dump(exclude_none=True)}
    return Recipe.model_validate(recipe).model_dump()
