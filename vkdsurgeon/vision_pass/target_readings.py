"""Whose do features read as, and is that more often their own subject than chance would have it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import IdentityReader

# How often a guesser may be called a knower.
_SIGNIFICANCE = 0.05


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
    """

    images: int
    own: int
    original: int
    subjects: int
    still: int
    trust: float = 1.0
    stretch: float = 1.0


def most_by_chance(images: int, chance: float) -> int:
    """The most right readings that guessing explains: more than these are significantly above chance, at 5 %.

    The smallest k with P(X <= k) at least 0.95 for X ~ Binomial(images, chance); 0 without images.
    """
    return int(binom.ppf(1 - _SIGNIFICANCE, images, chance)) if images else 0


def own_readings(reader: IdentityReader, features: Sequence[Tensor], subjects: Sequence[str]) -> Tensor:
    """Which of the images read as their own subject, bool [B].

    Args:
        reader: Knows the subjects.
        features: One [N, D] per image.
        subjects: The subject of each image.
    """
    return read_all(reader, features) == reader.indices(subjects)


def read_all(reader: IdentityReader, features: Sequence[Tensor]) -> Tensor:
    """Indices into the reader's subjects, int64 [B]; images may differ in their number of tokens."""
    if not features:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat([reader.read(value.unsqueeze(0)) for value in features])


def read_targets(
    reader: IdentityReader, originals: Sequence[Tensor], targets: Sequence[Tensor], subjects: Sequence[str]
) -> TargetReading:
    """What targets read as.

    Args:
        reader: Knows the subjects.
        originals: The teacher's features [N, D] of the forget images.
        targets: Their targets.
        subjects: The subject of each.
    """
    own = own_readings(reader, targets, subjects)
    still = 0
    for subject in dict.fromkeys(subjects):
        mine = torch.tensor([each == subject for each in subjects])
        still += int(own[mine].sum()) > most_by_chance(int(mine.sum()), reader.chance)
    return TargetReading(
        images=len(subjects),
        own=int(own.sum()),
        original=int(own_readings(reader, originals, subjects).sum()),
        subjects=len(reader.subjects),
        still=still,
    )
