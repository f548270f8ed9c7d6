"""Whose do features read as, and is that more often their own subject than chance would have it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import IdentityReader, most_by_chance
from vkdsurgeon.vision_pass.identity_space import IdentitySpace, Image


@dataclass(frozen=True)
class TargetReading:
    """What the forget targets read as at one layer.

    Attributes:
        images: Forget images.
        own: Of them, how many targets still read as the image's own subject.
        original: The same of the teacher's features, before anything was moved.
        subjects: Subjects that can be read: the forgotten and the kept ones.
        still: Forgotten subjects whose targets read as themselves more often than chance.
        trust: Most that a mean's images had to be counted for, `targets.shifts`; 1 where the plain rule sufficed.
        stretch: Farthest that a subject had to be moved, in ways to its nobody.
        at: Where identities were moved: at token positions, or at the tokens where the subject shows.
    """

    images: int
    own: int
    original: int
    subjects: int
    still: int
    trust: float = 1.0
    stretch: float = 1.0
    at: str = ""


def read_all(reader: IdentityReader, features: Sequence[Tensor]) -> Tensor:
    """Indices into the reader's subjects, int64 [B]; images may differ in their number of tokens."""
    if not features:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat([reader.read(value.unsqueeze(0)) for value in features])


def read_targets(space: IdentitySpace, targets: Callable[[Image], Tensor]) -> TargetReading:
    """What the targets of the known forget images read as, to readers that were not made from these images.

    Args:
        space: How identities are read.
        targets: The target [N, D] of a forget image.
    """
    places = range(space.known.forgotten)
    subjects = space.known.subjects[: space.known.forgotten]
    images = space.known.images[: space.known.forgotten]
    own = space.own(places, (space.pooled(image, targets(image)) for image in images))
    still = 0
    for subject in dict.fromkeys(subjects):
        mine = torch.tensor([each == subject for each in subjects])
        still += int(own[mine].sum()) > most_by_chance(int(mine.sum()), space.chance)
    return TargetReading(
        images=len(subjects),
        own=int(own.sum()),
        original=space.recognised,
        subjects=len(space.reader.subjects),
        still=still,
        at=space.name,
    )
