"""Gradient ascent: unlearn by raising the loss on the forget set.

    L = -CE(forget)

Source: the baseline of TOFU (Maini et al., arXiv 2401.06121, section 4) and MLLMU-Bench (arXiv 2410.22108).
"""

from __future__ import annotations

from collections.abc import Sequence

from vkdsurgeon.baselines.examples import Exercise
from vkdsurgeon.baselines.language_loss import Scene, Term, cross_entropy


def ascent(scene: Scene) -> Term:
    """-CE of the answers. It has no lower bound, so only few steps and clipping keep the model alive."""
    descent = cross_entropy(scene)

    def term(exercises: Sequence[Exercise], weight: float | None = None) -> float:
        return -descent(exercises, None if weight is None else -weight)

    return term
