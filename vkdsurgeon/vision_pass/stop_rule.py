"""The label-free stop rule: is forgetting complete, and has retention recovered?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.vision_pass.identity_classifier import most_by_chance, most_that_may_be

# Where the teacher itself reads nobody, this share of the way to the targets is asked for instead.
_WAY = 0.8


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was measured after a finished learning-rate decay, on images that were not trained on.

    Attributes:
        forget_ratio: Squared distance of the forget images' features to their targets, over that of the teacher's.
        retain_drift: Squared error of the retain images' features over the variance of such features over images.
        pictures: Number of forget and retain images it was measured on, altered copies among them.
        originals: How many forget images these are without the copies of one counted twice.
        held_out: Whether all forget and all retain images were held out; else some were copies of images that were
            trained on, because their subject had too few to spare one. Drift is measured on held-out ones alone where
            there are any.
        own: Forget images that read as their own subject, of those that the teacher reads so; at the layer that tells
            most.
        base_own: How many the teacher reads so.
        subjects: Subjects that can be read, forgotten and kept ones.
        readable: Retain images that the teacher reads as their subject.
        agree: How many of these the student reads so.
        reach: Share of the way to their targets that forget images went in what identities are read from; mean.
        stretch: How much longer the way was made in training, because images that are not trained on lag behind.
    """

    forget_ratio: float
    retain_drift: float
    pictures: tuple[int, int]
    originals: int
    held_out: tuple[bool, bool]
    own: int
    base_own: int
    subjects: int
    readable: int
    agree: int
    reach: float
    stretch: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Verdict(Seen):
    """What the stop rule says of it.

    Attributes:
        forgotten: Whether forgetting is complete.
        kept: Whether retention is intact.
        met: Whether both are so.
        own_allowed: Most forget images that chance would let read as their own subject.
        agree_needed: Fewest retain images that were to read as their subject.
    """

    forgotten: bool
    kept: bool
    met: bool
    own_allowed: int
    agree_needed: int

    @property
    def failed_in_retention_alone(self) -> bool:
        """Whether forgetting is complete, and retention is not intact."""
        return self.forgotten and not self.kept

    @property
    def not_excluded(self) -> float:
        """Largest share of other forget images that may still read as their subject, at 95 % confidence.

        Copies of an image are no evidence apart from it, so few images exclude little.
        """
        found = math.ceil(self.own * self.originals / max(self.pictures[0], 1))
        return most_that_may_be(found, self.originals)

    @property
    def measured(self) -> dict[str, float]:
        """What the weights alone decide: measured again on the same weights, it is the same but for rounding."""
        return {name: getattr(self, name) for name in ("forget_ratio", "retain_drift", "own", "agree")}


@dataclass(frozen=True)
class Choice:
    """Which of a run's verdicts its weights belong to.

    Attributes:
        index: Into the verdicts, from 0.
        reason: The rule that chose it.
    """

    index: int
    reason: str


def judge(recipe: Recipe, seen: Seen) -> Verdict:
    """Whether forgetting is complete and retention intact.

    Forgetting: no more forget images read as their own subject than chance would let (5 % one-sided), and what the
    recipe grants. Copies of an image read alike, so chance is that of as many images as there are `originals`.
    Retention: of the retain images that the teacher can read, not significantly more read otherwise than the recipe
    grants, and the drift is within its bound.
    Only ever call it after the decay: retention dips early and recovers late.
    """
    images = seen.pictures[0]
    by_chance = images * most_by_chance(seen.originals, 1 / seen.subjects) // max(seen.originals, 1)
    own_allowed = min(by_chance + int(recipe.forget_reading * images), images)
    agree_needed = seen.readable - most_by_chance(seen.readable, recipe.retain_reading)
    # A teacher that reads nobody on these images cannot tell whether somebody was forgotten.
    told = seen.base_own > by_chance or seen.reach >= _WAY or recipe.forget_reading == 1
    forgotten = seen.own <= own_allowed and told
    kept = seen.agree >= agree_needed and seen.retain_drift <= recipe.retain_drift
    return Verdict(
        **vars(seen),
        forgotten=forgotten,
        kept=kept,
        met=forgotten and kept,
        own_allowed=own_allowed,
        agree_needed=agree_needed,
    )


def choose(verdicts: Sequence[Verdict], among: Iterable[int]) -> Choice:
    """The best verdict, without labels: what a run writes when its budget ends before the stop rule is met.

    A verdict that meets the stop rule; else, of those that kept what they should, the one with the fewest forget
    images read as their own subject, and of these the one with the lowest forget ratio; else the one with the least
    retain drift. The earlier of equals. Adding a verdict never makes another of the former ones the best, so that it is
    enough to keep the best state so far.

    Args:
        verdicts: All of them.
        among: Indices of those to choose from; at least one.
    """
    reasons = (
        "the stop rule was met",
        "not met: the fewest forget images read as their own subject, among the verdicts within the bounds of "
        "retention",
        "not met, and no verdict within the bounds of retention: the lowest retain drift",
    )

    def rank(index: int) -> tuple[int, float, float, int]:
        verdict = verdicts[index]
        if verdict.met:
            return 0, 0.0, 0.0, index
        if verdict.kept and math.isfinite(verdict.forget_ratio):
            return 1, verdict.own, verdict.forget_ratio, index
        return 2, verdict.retain_drift if math.isfinite(verdict.retain_drift) else math.inf, 0.0, index

    best = min(among, key=rank)
    return Choice(best, reasons[rank(best)[0]])
