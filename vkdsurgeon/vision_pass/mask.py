"""From the forget term to the saliency mask."""

from __future__ import annotations

import torch

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training import saliency
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.vision_pass.trainer import DistillationTerm, pass_over


def choose_mask(
    stack: VisualStack, forget: DistillationTerm, recipe: Recipe, generator: torch.Generator
) -> SaliencyMask:
    """Pass over the forget images once and select, by the recipe's rule, which elements may move.

    Args:
        stack: The student at the teacher's weights; parameters that ask for no gradient are not to choose from.
        forget: The forget term.
        recipe: Rule, density, granularity.
        generator: Source of random scores.

    Raises:
        UserError: Nothing is selected.
    """
    return saliency.choose_mask(
        {name: value for name, value in stack.visual_parameters().items() if value.requires_grad},
        _originals(forget),
        lambda part: pass_over(stack, forget, part, recipe, learn=True),
        rule=recipe.saliency,
        density=recipe.density,
        batch=recipe.forget_batch,
        generator=generator,
        granularity=recipe.granularity,
        layer_of=stack.layer_of,
        processes=stack.processes,
    )


def _originals(term: DistillationTerm) -> list[int]:
    # Copies cost a pass each and rank the weights as their originals do.
    return [index for index in term.train if index < term.originals]
