"""The recipe: every free choice of visual unlearning, with its measured default.

One pydantic model is the YAML file, the settings of the command line and what is saved with the result. The names below
are looked up when they are first used, so that a command's help needs neither pydantic nor yaml.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vkdsurgeon.config.baselines import BaselineRecipe
    from vkdsurgeon.config.decoder import DecoderRecipe
    from vkdsurgeon.config.files import dump_recipe, load_recipe
    from vkdsurgeon.config.forgetting import Distance, ForgetTarget
    from vkdsurgeon.config.mask import Saliency
    from vkdsurgeon.config.recipe import OutputLoss, Recipe
    from vkdsurgeon.config.retention import RetainDistance

_HOMES = {
    "BaselineRecipe": "vkdsurgeon.config.baselines",
    "DecoderRecipe": "vkdsurgeon.config.decoder",
    "Distance": "vkdsurgeon.config.forgetting",
    "ForgetTarget": "vkdsurgeon.config.forgetting",
    "OutputLoss": "vkdsurgeon.config.recipe",
    "Recipe": "vkdsurgeon.config.recipe",
    "RetainDistance": "vkdsurgeon.config.retention",
    "Saliency": "vkdsurgeon.config.mask",
    "dump_recipe": "vkdsurgeon.config.files",
    "load_recipe": "vkdsurgeon.config.files",
}

__all__ = [
    "BaselineRecipe",
    "DecoderRecipe",
    "Distance",
    "ForgetTarget",
    "OutputLoss",
    "Recipe",
    "RetainDistance",
    "Saliency",
    "dump_recipe",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
