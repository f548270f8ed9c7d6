"""The label-free stop rule: is forgetting complete, and has retention recovered?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vkdsurgeon.recipe import Recipe


@dataclass(frozen=True)
class Verdict:
    """What the stop rule saw after a finished learning-rate decay.

    Attributes:
        forget_ratio: Forget loss on the held-out forget pictures over its value before training.
        retain_drift: Squared error of the held-out retain pictures' features over the variance of such features over
            pictures.
        met: Both are within the recipe's bounds.
        pictures: Number of forget and retain pictures it was measured on.
        held_out: Whether the forget and the retain pictures were held out; else they were trained on, because no
            subject had enough pictures to spare one.
    """

    forget_ratio: float
    retain_drift: float
    met: bool
    pictures: tuple[int, int]
    held_out: tuple[bool, bool]


@dataclass(frozen=True)
class Choice:
    """Which of a run's verdicts its weights belong to.

    Attributes:
        index: Into the verdicts, from 0.
        reason: The rule that chose it.
    """

    index: int
    reason: str


def judge(
    recipe: Recipe, forget_ratio: float, retain_drift: float, pictures: tuple[int, int], held_out: tuple[bool, bool]
) -> Verdict:
    """Apply the recipe's bounds. Only ever call it after the decay: retention dips early and recovers late."""
    met = forget_ratio <= recipe.forget_ratio and retain_drift <= recipe.retain_drift
    return Verdict(forget_ratio, retain_drift, met, pictures, held_out)


def choose(recipe: Recipe, verdicts: Sequence[Verdict], among: Iterable[int]) -> Choice:
    """The best verdict, without labels: what a run writes when its budget ends before the stop rule is met.

    A verdict that meets the stop rule; else, of those whose retain drift is within its bound, the one with the lowest
    forget ratio; else the one with the lowest weighted excess, that is max(0, ratio / bound - 1) + max(0, drift / bound
    - 1). The earlier of equals. Adding a verdict never makes another of the former ones the best, so that it is enough
    to keep the best state so far.

    Args:
        recipe: The bounds.
        verdicts: All of them.
        among: Indices of those to choose from; at least one.
    """
    met, within, nearest = (
        "the stop rule was met",
        "not met: the lowest forget ratio among the verdicts within the bound of the retain drift",
        "not met, and no verdict within the bound of the retain drift: the lowest weighted excess over both bounds",
    )

    def rank(index: int) -> tuple[int, float, int]:
        verdict = verdicts[index]
        ratio, drift = verdict.forget_ratio, verdict.retain_drift
        if verdict.met:
            return 0, 0.0, index
        if drift <= recipe.retain_drift and math.isfinite(ratio):
            return 1, ratio, index
        excess = max(0.0, ratio / recipe.forget_ratio - 1) + max(0.0, drift / recipe.retain_drift - 1)
        return 2, excess if math.isfinite(ratio + drift) else math.inf, index

    best = min(among, key=rank)
    return Choice(best, (met, within, nearest)[rank(best)[0]])


def split_validation(subjects: tuple[str, ...], share: float) -> tuple[list[int], list[int]]:
    """Hold out pictures of every subject that has enough of them.

    Args:
        subjects: The subject of each picture.
        share: Share to hold out; a subject with fewer than `1 / share` pictures is trained on entirely.

    Returns:
        Indices to train on and indices held out, both in order. With nothing held out, the second is empty.
    """
    seen: dict[str, int] = {}
    train: list[int] = []
    held_out: list[int] = []
    for index, subject in enumerate(subjects):
        seen[subject] = seen.get(subject, 0) + 1
        # The last of each full run of 1 / share pictures, so that the share never exceeds what was asked.
        due = share > 0 and int(seen[subject] * share) > int((seen[subject] - 1) * share)
        (held_out if due else train).append(index)
    return train, held_out
