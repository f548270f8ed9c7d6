"""Forgetting towards uniform predictions: at every position of the answer, all tokens become equally likely.

    L = E KL( uniform || p ) = E [ -(1 / V) sum_v log p_v - log V ]

Bounded below, unlike gradient ascent. Used for language models by Yuan et al. (arXiv 2410.08109, maximum entropy), with
the other direction of KL there; this one keeps a gradient where p is sure of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term


def to_uniform(language: LanguageLoss) -> Term:
    """KL from the uniform distribution at the answers' positions, a mean over tokens, in nats."""

    def term(examples: Sequence[QAExample], weight: float | None = None) -> float:
        def value(part: list[int], tokens: Tensor, log_p: Tensor) -> Tensor:
            return (-log_p.mean(dim=2) - math.log(log_p.shape[2])).sum(dim=1)

        return language.learn(examples, value, weight, by_token=True)

    return term
