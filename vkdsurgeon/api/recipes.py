"""Recipes: loading them, and adding forget targets and masks that they can name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vkdsurgeon.api.names import PathLike

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.training.saliency import MaskRule
    from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext


def load_recipe(path: PathLike | None = None, preset: str | None = None, **keys: Any) -> Recipe:
    """Make a recipe from a preset, a YAML file and single keys.

        load_recipe(preset="robust", density=0.25, decoder={"steps": 200})

    Keys override the file, and the file overrides the preset.

    Args:
        path: A YAML file of recipe keys; None for no file.
        preset: The name of a preset that ships with the package; None starts from the defaults.
        keys: Recipe keys, as `vkdsurgeon recipe keys` lists them. A section such as `decoder` is a mapping.

    Raises:
        UserError: The preset or a key is unknown, the file cannot be read, or a value is out of range.
    """
    from vkdsurgeon.config.files import load_recipe as load

    return load(None if path is None else Path(path), keys, preset)


def register_forget_target(name: str, make: Callable[[TargetContext], ForgetTargets]) -> None:
    """Add a forget target of your own, which recipes can then name. It lasts as long as this process.

        def flat(context: TargetContext) -> ForgetTargets:
            made = context.empty()
            for layer in context.recipe.layers:
                for index, value in enumerate(context.forget.all(layer)):
                    made.put(layer, index, value.mean(dim=0, keepdim=True).expand_as(value).contiguous())
            return ForgetTargets(made)

        register_forget_target("flat", flat)
        unlearn("model/", "forget.jsonl", "patched/", recipe={"forget_target": "flat"})

    Args:
        name: The new value of the recipe key `forget_target`.
        make: A function. It receives the teacher's features of all images, with their subjects. It returns the features
            [N, D] that the student must produce for every forget image, at each layer of the recipe. Targets that can
            still be read as the subject itself are refused before training.

    Raises:
        UserError: The name belongs to a target that ships with the package, or it is not an identifier.
    """
    from vkdsurgeon.config.registered import is_registered, register_word
    from vkdsurgeon.vision_pass.targets import FORGET_TARGETS

    register_word("forget_target", name, [each for each in FORGET_TARGETS if not is_registered("forget_target", each)])
    FORGET_TARGETS[name] = make


def register_mask(name: str, choose: MaskRule) -> None:
    """Add a mask of your own, which recipes can then name. It lasts as long as this process.

        def big_gradients(parameters: Mapping[str, Parameter], gradients: Callable[[], dict[str, Tensor]]):
            return {name: score > score.mean() for name, score in gradients().items() if name.endswith(".weight")}

        register_mask("big_gradients", big_gradients)
        unlearn("model/", "forget.jsonl", "patched/", recipe={"saliency": "big_gradients"})

    Args:
        name: The new value of the recipe key `saliency`.
        choose: A function. It receives two things: the parameters it can choose from, by name; and a function that
            makes one pass over the forget images and returns, per parameter, the summed |gradient| of the forget loss
            (float32, the parameter's shape). It returns bool tensors of the parameters' shapes, True where an element
            may change. Parameters it leaves out are frozen. The recipe keys `density` and `granularity` are not
            applied; the memory estimate still assumes `density`.

    Raises:
        UserError: The name belongs to a rule that ships with the package, or it is not an identifier.
    """
    from typing import get_args

    from vkdsurgeon.config.mask import Saliency
    from vkdsurgeon.config.registered import register_word
    from vkdsurgeon.training.saliency import CUSTOM_RULES

    register_word("saliency", name, get_args(Saliency))
    CUSTOM_RULES[name] = choose
