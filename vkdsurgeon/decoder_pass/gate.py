"""The gate of the decoder pass: did W unlearn the original features, and what did that cost?"""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.decoder_pass.trainer import Drift


@dataclass(frozen=True)
class DecoderVerdict:
    """Held-out questions, measured without labels on the weights as they are written.

    Attributes:
        forget_ratio: KL on the original features of forget images over its value before the pass.
        retain_kl: KL on kept images, nats per judged position.
        retain_agreement: Share of the questions about kept images answered in the very same tokens.
        text_kl: KL on the held-out half of the text retain set, nats per position.
        text_agreement: Share of its prompts answered in the very same tokens.
        questions: Number of forget, retain and text questions.
        missed: The bounds that do not hold, one clause each.
    """

    forget_ratio: float
    retain_kl: float
    retain_agreement: float
    text_kl: float
    text_agreement: float
    questions: tuple[int, int, int]
    missed: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Every bound of the recipe holds."""
        return not self.missed


def judge(recipe: DecoderRecipe, start: Drift, forget: Drift, retain: Drift, text: Drift) -> DecoderVerdict:
    """Check the recipe's bounds on the decoder pass.

    Args:
        recipe: The bounds.
        start: The forget questions before the pass.
        forget: The same questions after it.
        retain: Questions about kept images after it.
        text: Prompts after it.
    """
    ratio = forget.kl / max(start.kl, 1e-12)
    bounds = (
        ("forget KL over its start", ratio, recipe.forget_ratio, "decoder.forget_ratio"),
        ("retain KL", retain.kl, recipe.retain_kl, "decoder.retain_kl"),
        ("text KL", text.kl, recipe.text_kl, "decoder.text_kl"),
    )
    # `not <=` rather than `>`: what is not a number misses its bound.
    missed = [f"{name} {value:.4f} > {bound:g} ({key})" for name, value, bound, key in bounds if not value <= bound]
    if not text.agreement >= recipe.text_agreement:
        missed.append(f"text agreement {text.agreement:.3f} < {recipe.text_agreement:g} (decoder.text_agreement)")
    return DecoderVerdict(
        forget_ratio=ratio,
        retain_kl=retain.kl,
        retain_agreement=retain.agreement,
        text_kl=text.kl,
        text_agreement=text.agreement,
        questions=(forget.questions, retain.questions, text.questions),
        missed=tuple(missed),
    )
