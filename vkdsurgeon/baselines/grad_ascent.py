"""Gradient ascent: unlearn by raising the loss on the forget set.

    L = -CE(forget)

Source: the baseline of TOFU (Maini et al., arXiv 2401.06121, section 4) and MLLMU-Bench (arXiv 2410.22108).
"""

from __future__ import annotations

from collections.abc import Sequence

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, cross_entropy


def ascent(language: LanguageLoss) -> Term:
    """-CE of the answers. It has no lower bound, so only few steps and clipping keep the model alive."""
    descent = cross_entropy(language)

    def term(examples: Sequence[QAExample], weight: float | None = None) -> float:
        return -descent(examples, None if weight is None else -weight)

    return term
