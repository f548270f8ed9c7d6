"""The recipe: every free choice of visual unlearning, with its measured default.

One pydantic model is the YAML file, the command-line flags and what is saved with the result.
"""

from vkdsurgeon.recipe.baseline import BaselineRecipe
from vkdsurgeon.recipe.decoder import DecoderRecipe
from vkdsurgeon.recipe.files import dump_recipe, load_recipe
from vkdsurgeon.recipe.forgetting import Distance, ForgetTarget
from vkdsurgeon.recipe.mask import Saliency
from vkdsurgeon.recipe.retention import RetainDistance
from vkdsurgeon.recipe.whole import OutputLoss, Recipe

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
