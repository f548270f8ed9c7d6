"""Greedy answers to prompts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from vkdsurgeon.evaluation.batches import batches_of, to_model
from vkdsurgeon.evaluation.model import LoadedModel
from vkdsurgeon.evaluation.prompts import Prompt, collate


def say(loaded: LoadedModel, prompts: Mapping[int, Prompt], batch_size: int, max_new_tokens: int) -> dict[int, str]:
    """Generate greedily behind every prompt.

    Args:
        loaded: The model.
        prompts: Key -> prompt; prompts of equal shape share a batch, so that nothing is padded.
        batch_size: Prompts per batch.
        max_new_tokens: Bound on an answer.

    Returns:
        Key -> text without special tokens, blanks at its ends removed.
    """

    def signature(item: tuple[int, Prompt]) -> Hashable:
        return item[1].signature

    said: dict[int, str] = {}
    for batch in batches_of(list(prompts.items()), signature, batch_size):
        inputs = to_model(collate([prompt for _, prompt in batch]), loaded)
        # Sampling settings of the checkpoint's generation config are switched off one by one.
        output = loaded.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = loaded.encoder.tokenizer.batch_decode(new, skip_special_tokens=True)
        said |= {key: text.strip() for (key, _), text in zip(batch, texts, strict=True)}
    return said
