"""Greedy answers to prompts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from vkdsurgeon.model.batches import batches_of, to_model
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prompts import Prompt, collate


def say(
    loaded: LoadedModel, prompts: Mapping[int, Prompt], batch_size: int, max_new_tokens: int
) -> dict[int, str | None]:
    """Generate greedily behind every prompt.

    Args:
        loaded: The model; see `model.load_model` for its generation config.
        prompts: Key -> prompt; prompts of equal shape share a batch, so that nothing is padded.
        batch_size: Prompts per batch.
        max_new_tokens: Bound on an answer.

    Returns:
        Key -> text without special tokens, blanks at its ends removed; None where the model's logits were not finite,
        so that it said nothing that could be judged.
    """

    def signature(item: tuple[int, Prompt]) -> Hashable:
        return item[1].signature

    ends = loaded.model.generation_config.eos_token_id
    said: dict[int, str | None] = {}
    for batch in batches_of(list(prompts.items()), signature, batch_size):
        inputs = to_model(collate([prompt for _, prompt in batch]), loaded)
        start = inputs["input_ids"].shape[1]
        watch = _Watch(start, [ends] if isinstance(ends, int) else ends or [])
        output = loaded.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, logits_processor=[watch]
        )
        texts = loaded.encoder.tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)
        for (key, _), text, broken in zip(batch, texts, watch.broken.tolist(), strict=True):
            said[key] = None if broken else text.strip()
    return said


class _Watch:
    """Looks at the logits of every step, and changes nothing.

    Attributes:
        broken: bool [B]; whether those of an answer were not finite before it ended.
    """

    def __init__(self, start: int, ends: list[int]) -> None:
        self._start, self._ends = start, ends
        self.broken = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A single infinite logit is how some models leave out a token; NaN, or infinity as a whole, is how they break.
        broken = ~scores.float().logsumexp(dim=-1).isfinite()
        if input_ids.shape[1] == self._start:
            self.broken = broken
        else:
            written = input_ids[:, self._start :]
            ended = torch.isin(written, torch.tensor(self._ends, device=written.device)).any(dim=1)
            self.broken = self.broken | (broken & ~ended)
        return scores
