"""From terms to the saliency mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training import saliency
from vkdsurgeon.training.saliency import SaliencyMask, sensitivity
from vkdsurgeon.vision_pass.trainer import DistillationTerm, pass_over

# The proxy estimates a mean over images; more of them cost a backward pass each and move it little.
_MOST_PROBED = 512


def choose_mask(
    stack: VisualStack, terms: Sequence[DistillationTerm], recipe: Recipe, generator: torch.Generator
) -> SaliencyMask:
    """Pass over the terms once and select, by the recipe's rule, which elements may move.

    Args:
        stack: The student at the teacher's weights; parameters that ask for no gradient are not to choose from.
        terms: Forgetting and retention.
        recipe: Rule, density, granularity.
        generator: Source of random scores and projections.

    Raises:
        UserError: Nothing is selected.
    """
    forget, retain = terms
    return saliency.choose_mask(
        {name: value for name, value in stack.visual_parameters().items() if value.requires_grad},
        _originals(forget),
        lambda part: pass_over(stack, forget, part, recipe, learn=True),
        rule=recipe.saliency,
        density=recipe.density,
        batch=recipe.forget_batch,
        generator=generator,
        retain=_sensitivities(stack, retain, recipe, generator),
        granularity=recipe.granularity,
        layer_of=stack.layer_of,
        processes=stack.processes,
    )


def _sensitivities(
    stack: VisualStack, retain: DistillationTerm, recipe: Recipe, generator: torch.Generator
) -> Iterator[Callable[[], None]]:
    def look(batch: ImageBatch) -> None:
        sensitivity(stack.features(batch, tuple(retain.layers)), retain.layers, generator).backward()

    indices = _originals(retain)
    step = max(1, -(-len(indices) // _MOST_PROBED))
    for _, batch in retain.samples.batches(indices[::step], recipe.micro_batch):
        yield partial(look, batch)


def _originals(term: DistillationTerm) -> list[int]:
    # Copies cost a pass each and rank the weights as their originals do.
    return [index for index in term.train if index < term.originals]
