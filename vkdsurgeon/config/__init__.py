"""The recipe: every free choice of visual unlearning, with its measured default.

One pydantic model is the YAML file, the command-line flags and what is saved with the result.
"""

from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.files import dump_recipe, load_recipe
from vkdsurgeon.config.forgetting import Distance, ForgetTarget
from vkdsurgeon.config.mask import Saliency
from vkdsurgeon.config.recipe import OutputLoss, Recipe
from vkdsurgeon.config.retention import RetainDistance

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
