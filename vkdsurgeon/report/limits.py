"""The section of the report about what its numbers do not show."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.report.evidence import Case


@dataclass(frozen=True)
class Limit:
    """One limit: a few words, and what they mean."""

    lead: str
    text: str


def limits_of(case: Case) -> tuple[Limit, ...]:
    """The limits that hold for this model."""
    tried = {attack.attack for attack in case.attacks}
    return (
        Limit(
            "Relative to base and gold, under these attacks.",
            "What was measured holds on these questions. It does not say that anything is erased.",
        ),
        *(_LANGUAGE_EDITED if case.other_method else (_facts(case.decoder_pass),)),
        *(() if case.other_method else (_originals(case.decoder_pass, measured="restore" in tried),)),
        Limit(
            "Fine-tuning can bring it back.",
            "Whoever trains the model on images of the same subjects brings much of the knowledge back, quickly; on "
            "other subjects than those trained on, less. AG means nothing without its protocol and budget: a longer or "
            "better attack recovers more. A model that lost its use also looks robust, so read AG beside utility.",
        ),
        Limit(
            "Zero is necessary, not sufficient.",
            "A wrong answer to these questions does not prove that nothing is left. Other questions, other wordings, "
            "other images or a probe on inner features may still tell. Accuracy below chance is itself a tell: a "
            "model that never knew guesses, and does not avoid the right answer.",
        ),
        Limit(
            "These sets, this seed.",
            "Intervals cover the draw of the questions only: not the seed of the training, not the choice of subjects, "
            "not images of another kind. Differences within the intervals are noise. The number of steps, thresholds "
            "and step size were chosen on a small model.",
        ),
        *(
            ()
            if "quantize" in tried
            else (
                Limit(
                    "Quantise, then measure again.",
                    "Changes smaller than a quantisation step vanish in it. In one published study a 4-bit round trip "
                    "brought 21 % of forgotten knowledge back to 83 %. That was not measured here.",
                ),
            )
        ),
        Limit(
            "Forget and retain sets are the user’s word.",
            "The record holds salted digests of the sets. Whoever holds a set can check that it was used; nothing here "
            "shows that the set was complete.",
        ),
    )


_LANGUAGE_EDITED = (
    Limit(
        "The language model was trained as well.",
        "The method on record is not visual knowledge distillation: it edits the language model, and no rule holds "
        "what that says in text, about the subjects or anything else. Text has to be measured. Whoever has the "
        "original checkpoint has the old model.",
    ),
)


def _facts(decoder_pass: bool) -> Limit:
    if decoder_pass:
        return Limit(
            "The facts in text stay.",
            "The decoder pass teaches the language model not to read the subjects from their visual features. What it "
            "can say about them when they are named in text was to be kept, and identity may also sit in early and "
            "middle layers of the decoder that no question here reached. Text is no longer bit-identical: the drift "
            "is measured, not excluded.",
        )
    return Limit(
        "Only the visual route is closed.",
        "The image no longer leads to the subject. The facts stay in the language model: asked by name, in text, it "
        "answers as before, on purpose. Published work also finds identity in early and middle layers of the decoder, "
        "which this method does not touch.",
    )


def _originals(decoder_pass: bool, *, measured: bool) -> Limit:
    asked = "It was measured: see the attack above." if measured else "It was not measured here."
    if decoder_pass:
        return Limit(
            "The original tower and projector are an attack.",
            "Whoever has the original checkpoint can put its vision tower and projector back in front of the patched "
            f"language model, for free. The decoder pass works against that. {asked}",
        )
    return Limit(
        "The original tower and projector bring everything back.",
        "The language model still reads the original features. Whoever has the original checkpoint can put its vision "
        "tower and projector back, without data or training, and has the old model. No method that leaves the language "
        f"model alone survives that. {asked}",
    )
