"""Negative preference optimisation: gradient ascent that slows down as an answer becomes less likely than it was.

    L = (2 / b) E log( 1 + (p(y | x) / p_0(y | x))^b ) = -(2 / b) E log sigmoid( -b (log p - log p_0) )

Source: Zhang et al., arXiv 2404.05868, equation 3; b -> 0 is gradient ascent. log p is that of the whole answer, the
sum over its tokens; public code of multimodal benchmarks puts the mean over tokens in its place, which makes b depend
on the length of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, log_likelihood


def preference(language: LanguageLoss, examples: Sequence[QAExample], beta: float) -> Term:
    """The NPO loss against the model as it is now.

    Args:
        language: With the model as it was given.
        examples: All that the term will be asked about.
        beta: Inverse temperature b.
    """
    known = list(dict.fromkeys(examples))
    original: dict[QAExample, float] = {}
    with torch.no_grad():
        for part, requests, logits in language.logits(known):
            tokens = torch.tensor([[want[0] for want in each.wanted] for each in requests], device=logits.device)
            values = log_likelihood(tokens, logits.log_softmax(dim=2)).tolist()
            original |= {known[at]: value for at, value in zip(part, values, strict=True)}

    def term(chosen: Sequence[QAExample], weight: float | None = None) -> float:
        def value(part: list[int], tokens: Tensor, log_p: Tensor) -> Tensor:
            before = torch.tensor([original[chosen[at]] for at in part], device=log_p.device)
            ratio = log_likelihood(tokens, log_p) - before
            return -2 / beta * torch.nn.functional.logsigmoid(-beta * ratio)

        return language.learn(chosen, value, weight)

    return term
