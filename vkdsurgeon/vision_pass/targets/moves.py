"""Moving forget images until they no longer read as their own subject, and no farther than that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import most_by_chance
from vkdsurgeon.vision_pass.identity_space import IdentitySpace
from vkdsurgeon.vision_pass.target_readings import TargetReading, read_targets
from vkdsurgeon.vision_pass.targets import identity_shift
from vkdsurgeon.vision_pass.targets.context import TargetContext
from vkdsurgeon.vision_pass.targets.nearest_kept import NearestKept

# (trust, stretch), tried in turn until a target no longer reads as its own subject: first less is held to be the
# accident of views, then the way is longer.
_WAYS = ((1.0, 1.0), (4.0, 1.0), (16.0, 1.0), (inf, 1.0), (inf, 1.5), (inf, 2.0))
# Of what a second, cruder way of reading recognised: more left means that identity is left where only it looks.
_MOST_LEFT = 0.5


@dataclass(frozen=True)
class Moves:
    """Where forget images go at one layer. They are moved when asked for, so that none is held.

    Attributes:
        context: What is known.
        layer: The layer of the features.
        stages: In which identities are moved, one after the other.
        shifts: Subject -> one shift per stage, float32 [N, D] or [1, D]; others stay where they are.
        nearest: What then takes the place of an image's own identity; None leaves it empty, or to the shifts.
    """

    context: TargetContext
    layer: str
    stages: tuple[IdentitySpace, ...]
    shifts: Mapping[str, tuple[Tensor, ...]]
    nearest: NearestKept | None = None

    def image(self, index: int) -> Tensor:
        """The moved features of a forget image, float32 [N, D]."""
        value = self.context.forget.one(self.layer, index).float()
        found = self.shifts.get(self.context.forget_subjects[index], ())
        for space, shift in zip(self.stages, found, strict=False):
            value = value + space.spread(("forget", index), shift)
        return value if self.nearest is None or not found else self.nearest.move(("forget", index), value)


@dataclass(frozen=True)
class _Try:
    """What moving identities in one way, or in two ways one after the other, comes to.

    Attributes:
        moves: Takes each forget image to its target features, float32 [N, D].
        reading: What the known ones read as, to the best way of reading.
        left: The largest share, over all ways of reading, of what was recognised before and still is.
    """

    moves: Moves
    reading: TargetReading
    left: float

    @property
    def rank(self) -> tuple[int, float]:
        return self.reading.still, self.left

    @property
    def done(self) -> bool:
        return self.reading.still == 0 and self.left <= _MOST_LEFT


def move_far_enough(
    context: TargetContext, layer: str, stand_ins: Mapping[str, Sequence[str]], nearest: int = 0
) -> tuple[Moves, TargetReading]:
    """Move forget images towards the mixture of their subject's stand-ins.

    Identities are moved as they are read best. Where images still read as themselves then, to that way or to the
    other, the other way is tried, and then both one after the other.

    Args:
        context: What is known.
        layer: The layer of the features.
        stand_ins: Forgotten subject -> the kept identities to mix; may be none.
        nearest: Mix for every image so many kept identities instead, those nearest to it.

    Returns:
        How every forget image is moved, and what the known ones read as then.
    """
    spaces = context.spaces(layer)
    ways: list[tuple[IdentitySpace, ...]] = [(space,) for space in spaces]
    if len(spaces) > 1:
        ways.append((spaces[1], spaces[0]))
    tries: list[_Try] = []
    for stages in ways:
        others = NearestKept(stages[-1], context.kept, nearest) if nearest else None
        tries.append(_try(Moves(context, layer, stages, {}, others), stand_ins))
        if tries[-1].done:
            break
    best = min(tries, key=lambda tried: tried.rank)
    return best.moves, best.reading


def _try(moves: Moves, stand_ins: Mapping[str, Sequence[str]]) -> _Try:
    context, spaces = moves.context, moves.context.spaces(moves.layer)
    places: dict[str, list[int]] = {name: [] for name in context.forgotten}
    for place, subject in enumerate(spaces[0].known.subjects[: spaces[0].known.forgotten]):
        places[subject].append(place)
    left, used = context.forgotten, _WAYS[0]
    for trust, stretch in _WAYS:
        used = (trust, stretch)
        farther = _shifts(moves, {name: stand_ins[name] for name in left}, trust, stretch)
        moves = replace(moves, shifts={**moves.shifts, **farther})
        left = [
            name
            for name in left
            if _own(spaces[0], moves, places[name]) > most_by_chance(len(places[name]), spaces[0].chance)
        ]
        if not left:
            break
    reading = replace(
        read_targets(spaces[0], lambda image: moves.image(image[1])),
        trust=used[0],
        stretch=used[1],
        at=", then ".join(space.name for space in moves.stages),
    )
    return _Try(moves, reading, max(_left(space, moves) for space in spaces))


def _shifts(
    moves: Moves, stand_ins: Mapping[str, Sequence[str]], trust: float, stretch: float
) -> dict[str, tuple[Tensor, ...]]:
    """The shifts of some subjects, one per stage; all others stay where they are."""
    context, made = moves.context, replace(moves, shifts=dict.fromkeys(stand_ins, ()), nearest=None)
    for number, space in enumerate(moves.stages):
        model = space.model
        if number:
            # What the former way has moved is no longer where it was.
            rows = list(space.rows)
            for place, image in enumerate(space.known.images[: space.known.forgotten]):
                if space.known.subjects[place] in stand_ins:
                    rows[place] = space.pooled(image, made.image(image[1]))
            model = space.refitted(rows)
        found = identity_shift.shifts(model, context.kept, stand_ins, trust=trust, stretch=stretch)
        made = replace(made, shifts={name: (*made.shifts[name], shift) for name, shift in found.items()})
    return dict(made.shifts)


def _left(space: IdentitySpace, moves: Moves) -> float:
    """Of the forget images that read as their own subject beyond chance, the share that still does."""
    known = range(space.known.forgotten)
    guessed = space.chance * len(known)
    if space.recognised <= most_by_chance(len(known), space.chance):
        return 0.0
    return max(_own(space, moves, known) - guessed, 0.0) / (space.recognised - guessed)


def _own(space: IdentitySpace, moves: Moves, places: Sequence[int]) -> int:
    """How many known forget images read as their own subject."""
    named = (space.known.images[place] for place in places)
    return int(space.own(places, (space.pooled(image, moves.image(image[1])) for image in named)).sum())
