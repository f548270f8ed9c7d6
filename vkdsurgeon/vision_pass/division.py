"""Which images are trained on, which the stop rule looks at, and the altered copies of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.augment import FREELY, variants
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.data.splits import split_pooled, split_validation
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.replayed import ReplayedSample
from vkdsurgeon.model.vision import VisualStack

LOOKED_AT = 256
"""Images that the stop rule looks at, per set, about."""

# Copies of each of them, as far as that goes. Their numbers are beyond those of any copy that is trained on.
_LOOKS, _FIRST_LOOK = 4, 10_000
# Copies of a forget image for every one of a kept image.
_FORGET_COPIES = 2


@dataclass(frozen=True)
class Division:
    """Images of a set with their copies, and what is done with them.

    Attributes:
        samples: Originals, copies to train on, copies to look at.
        known: Originals that are trained on.
        train: Those that are trained on and their copies.
        judged: What the stop rule looks at.
        unseen: Those of `judged` that nothing was trained on in any form.
    """

    samples: SampleSet
    known: list[int]
    train: list[int]
    judged: list[int]
    unseen: tuple[int, ...]


def divide(
    stack: VisualStack, samples: SampleSet, recipe: Recipe, batch: int, budget: int, *, pooled: bool = False
) -> Division:
    """Divide a set.

    Args:
        stack: Prepares the images.
        samples: The originals.
        recipe: The settings, fitted.
        batch: Images of the set per step.
        budget: Most bytes of prepared images to keep.
        pooled: Split as `split_pooled` does, as fits a retain set: images are held out even if no subject has enough,
            because copies of trained images do not show what becomes of others.
    """
    subjects = samples.subjects
    known, held_out = (split_pooled if pooled else split_validation)(subjects, recipe.validation_share)
    # A subject with too few images to spare one is judged on copies that are not trained on.
    spared = {subjects[index] for index in held_out}
    unspared = [index for index in known if subjects[index] not in spared]
    originals = held_out[:: max(1, -(-len(held_out) // LOOKED_AT))]
    copied = [*originals, *unspared[:: max(1, -(-len(unspared) // LOOKED_AT))]]
    looks = min(_LOOKS, max(LOOKED_AT // max(len(copied), 1) - len(originals) // max(len(copied), 1), 1))
    # No more than the steps can draw: each copy costs the teacher a pass.
    affordable = max(batch * recipe.planned_steps // max(len(known), 1) - 1, 0)
    # What is forgotten has to be so on views that differ from these; what is kept only has to stay where it is.
    if pooled:
        training = _copies(samples, known, min(recipe.copies, affordable))
    else:
        training = _copies(samples, known, min(_FORGET_COPIES * recipe.copies, affordable), after=FREELY)
    judging = _copies(samples, copied, looks, after=_FIRST_LOOK)
    first = len(samples)
    looked = range(first + len(training), first + len(training) + len(judging))
    spared_files = {samples.samples[index].digest for index in originals}
    return Division(
        SampleSet(stack, [*samples.samples, *training, *judging], budget),
        known,
        [*known, *range(first, first + len(training))],
        [*originals, *looked],
        (*originals, *(index for index, copy in zip(looked, judging, strict=True) if copy.digest in spared_files)),
    )


def with_copies(recipe: Recipe, forget: int, keep: int) -> int:
    """How many images so many originals of both sets and their copies are, about."""
    return (1 + _FORGET_COPIES * recipe.copies) * forget + (1 + recipe.copies) * keep


def _copies(samples: SampleSet, indices: Sequence[int], count: int, after: int = 0) -> list[Sample]:
    there = [index for index in indices if not isinstance(samples.samples[index], ReplayedSample)]
    made = variants(samples.samples, there, count, after=after)
    # Of an image that is gone there are the copies that were kept.
    gone = [sample for index in indices if isinstance(sample := samples.samples[index], ReplayedSample)]
    numbers = range(after + 1, after + count + 1)
    return made + [sample.altered(number) for number in numbers for sample in gone if number in sample.copies]
