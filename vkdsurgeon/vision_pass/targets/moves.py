"""Moving forget images until they no longer read as their own subject, and no farther than that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import most_by_chance
from vkdsurgeon.vision_pass.identity_space import IdentitySpace, Image
from vkdsurgeon.vision_pass.target_readings import TargetReading, read_targets
from vkdsurgeon.vision_pass.targets import identity_shift
from vkdsurgeon.vision_pass.targets.context import TargetContext

# (trust, stretch), tried in turn until a target no longer reads as its own subject: first less is held to be the
# accident of views, then the way is longer.
_WAYS = ((1.0, 1.0), (4.0, 1.0), (16.0, 1.0), (inf, 1.0), (inf, 1.5), (inf, 2.0))
# Of what a second, cruder way of reading recognised: more left means that identity is left where only it looks.
_MOST_LEFT = 0.5


@dataclass(frozen=True)
class _Try:
    """What moving identities in one way, or in two ways one after the other, comes to.

    Attributes:
        images: Every forget image's features, moved.
        reading: What the known ones read as, to the best way of reading.
        left: The largest share, over all ways of reading, of what was recognised before and still is.
    """

    images: list[Tensor]
    reading: TargetReading
    left: float

    @property
    def rank(self) -> tuple[int, float]:
        return self.reading.still, self.left

    @property
    def done(self) -> bool:
        return self.reading.still == 0 and self.left <= _MOST_LEFT


def move_far_enough(
    context: TargetContext, layer: str, stand_ins: Mapping[str, Sequence[str]]
) -> tuple[list[Tensor], TargetReading]:
    """Move forget images towards the mixture of their subject's stand-ins.

    Identities are moved as they are read best. Where images still read as themselves then, to that way or to the
    other, the other way is tried, and then both one after the other.

    Args:
        context: What is known.
        layer: The layer of the features.
        stand_ins: Forgotten subject -> the kept identities to mix.

    Returns:
        Float32 [N, D] of every forget image, and what the known ones read as.
    """
    spaces = context.spaces(layer)
    ways: list[tuple[IdentitySpace, ...]] = [(space,) for space in spaces]
    if len(spaces) > 1:
        ways.append((spaces[1], spaces[0]))
    best: _Try | None = None
    for stages in ways:
        tried = _try(context, layer, stand_ins, stages)
        # The others are let go: each has all forget images' features.
        if best is None or tried.rank < best.rank:
            best = tried
        if tried.done:
            break
    assert best is not None
    return best.images, best.reading


def _try(
    context: TargetContext, layer: str, stand_ins: Mapping[str, Sequence[str]], stages: Sequence[IdentitySpace]
) -> _Try:
    best = context.spaces(layer)[0]
    moved = [value.float() for value in context.forget.all(layer)]
    places: dict[str, list[int]] = {name: [] for name in context.forgotten}
    for place, subject in enumerate(best.known.subjects[: best.known.forgotten]):
        places[subject].append(place)
    left, used = context.forgotten, _WAYS[0]
    for trust, stretch in _WAYS:
        used = (trust, stretch)
        farther = _through(context, layer, stages, {name: stand_ins[name] for name in left}, trust, stretch)
        for index, value in farther.items():
            moved[index] = value
        left = [
            name for name in left if _own(best, moved, places[name]) > most_by_chance(len(places[name]), best.chance)
        ]
        if not left:
            break
    reading = replace(
        read_targets(best, lambda image: moved[image[1]]),
        trust=used[0],
        stretch=used[1],
        at=", then ".join(space.name for space in stages),
    )
    return _Try(moved, reading, max(_left(space, moved) for space in context.spaces(layer)))


def _through(
    context: TargetContext,
    layer: str,
    stages: Sequence[IdentitySpace],
    stand_ins: Mapping[str, Sequence[str]],
    trust: float,
    stretch: float,
) -> dict[int, Tensor]:
    """The images of some subjects, moved in each of the ways in turn."""
    mine = [index for index, subject in enumerate(context.forget_subjects) if subject in stand_ins]
    kept = context.kept
    now = {index: context.forget.one(layer, index).float() for index in mine}
    for number, space in enumerate(stages):
        model = space.model
        if number:
            # What the former way has moved is no longer where it was.
            rows = list(space.rows)
            for place, (_, index) in enumerate(space.known.images[: space.known.forgotten]):
                if index in now:
                    rows[place] = space.pooled(("forget", index), now[index])
            model = space.refitted(rows)
        moves = identity_shift.shifts(model, kept, stand_ins, trust=trust, stretch=stretch)
        for index in mine:
            image: Image = ("forget", index)
            now[index] = now[index] + space.spread(image, moves[context.forget_subjects[index]])
    return now


def _left(space: IdentitySpace, images: Sequence[Tensor]) -> float:
    """Of the forget images that read as their own subject beyond chance, the share that still does."""
    known = range(space.known.forgotten)
    guessed = space.chance * len(known)
    if space.recognised <= most_by_chance(len(known), space.chance):
        return 0.0
    return max(_own(space, images, known) - guessed, 0.0) / (space.recognised - guessed)


def _own(space: IdentitySpace, images: Sequence[Tensor], places: Sequence[int]) -> int:
    """How many known forget images read as their own subject."""
    named = [space.known.images[place] for place in places]
    rows = [space.pooled(image, images[image[1]]) for image in named]
    return int(space.own(places, rows).sum())
