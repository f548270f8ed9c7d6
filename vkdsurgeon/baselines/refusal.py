"""Refusal tuning ("I don't know"): the forget questions get another answer.

    L = CE(forget questions with a refusal) + w CE(retain)

Source: the preference-optimisation baseline of TOFU (Maini et al., arXiv 2401.06121, section 4), which is plain cross
entropy on a refusal. Each time a question comes up one of the refusals is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, log_likelihood


def refusal(language: LanguageLoss, refusals: Sequence[str]) -> Term:
    """CE of a refusal in place of the answer, over all of its tokens."""
    generator = random.Random(f"{language.seed} refusals")

    def term(examples: Sequence[QAExample], weight: float | None = None) -> float:
        def value(part: list[int], tokens: Tensor, log_p: Tensor) -> Tensor:
            return -log_likelihood(tokens, log_p)

        drawn = [generator.choice(refusals) for _ in examples]
        return language.learn(examples, value, weight, answers=drawn, by_token=True)

    return term
