"""KL minimisation: gradient ascent, held by the original model's predictions on the retain set.

    L = -CE(forget) + w KL( p_0(. | retain) || p(. | retain) )

Source: the KL baseline of TOFU (Maini et al., arXiv 2401.06121, equation 3) and MLLMU-Bench (arXiv 2410.22108). KL is
taken over the whole vocabulary at the positions of the answer, as a mean over these, in nats; the sources average over
all positions of a padded batch, question and padding included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.training.losses import kl


def to_original(language: LanguageLoss, examples: Sequence[QAExample]) -> Term:
    """KL to what the model says now, at the answers' positions.

    Args:
        language: With the model as it was given.
        examples: All that the term will be asked about.
    """
    store, index = FeatureStore(language.cache_bytes), {each: at for at, each in enumerate(dict.fromkeys(examples))}
    known = list(index)
    with torch.no_grad():
        for part, _, logits in language.logits(known):
            for at, row in zip(part, logits.log_softmax(dim=2), strict=True):
                # Half precision: at a log-probability of -10 it is off by 0.4 %, at half the memory.
                store.put("original", at, row.half())

    def term(chosen: Sequence[QAExample], weight: float | None = None) -> float:
        def divergence(part: list[int], tokens: Tensor, log_p: Tensor) -> Tensor:
            original = store.get("original", [index[chosen[at]] for at in part], log_p.device).float()
            return kl(original, log_p).sum(dim=1)

        return language.learn(chosen, divergence, weight, by_token=True)

    return term
