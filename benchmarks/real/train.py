"""The second stage of training: projector and LoRA on the answers, on cached features of a frozen tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.real.adapters import attach, lora_of
from benchmarks.real.companies import World
from benchmarks.real.images import Shown
from benchmarks.real.language import IMAGE_TOKENS, READ, SEEN, block, tokens_of
from benchmarks.real.packing import Packed, pack
from benchmarks.real.questions import Question, about_company, about_view, text_questions


@dataclass(frozen=True)
class Plan:
    """How long and how fast; frozen weights and products are bfloat16, what is trained is float32.

    Attributes:
        text_first: So many of the first steps read text alone: they teach the form of an answer, and are cheap.
        steps: All steps.
        pictures: In a step.
        facts: Questions about the company besides its name, per image.
        general: Questions about the view, per image.
        text_questions: Without an image, in a step.
        projector_rate: Peak learning rate.
        lora_rate: Peak learning rate.
        warmup: Steps until the peak.
        text_weight: Of the loss on text, beside images.
        end_weight: Of the end's loss.
    """

    text_first: int = 30
    steps: int = 120
    pictures: int = 6
    facts: int = 2
    general: int = 2
    text_questions: int = 32
    projector_rate: float = 3e-4
    lora_rate: float = 2.5e-3
    warmup: int = 10
    text_weight: float = 0.7
    end_weight: float = 0.1


def train(
    model: Any,
    tokenizer: Any,
    world: World,
    images: Shown,
    features: torch.Tensor,
    *,
    plan: Plan,
    seed: int,
    tell: Callable[[int, float, float], None],
) -> Any:
    """Train in place.

    Args:
        model: From `compose`, its projector aligned.
        tokenizer: Its tokenizer.
        world: Whom the text is about: everybody, whatever is shown.
        images: What is shown.
        features: float32 [V, 64, 384] of these images.
        plan: How long.
        seed: Of the order.
        tell: Called with step and losses on images and on text.

    Returns:
        peft's wrapper around the language model.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model.model.language_model.to(torch.bfloat16)
    wrapped = attach(model)
    loras = list(lora_of(wrapped).values())
    for parameter in loras:
        parameter.data = parameter.data.float()
    projector = list(model.model.multi_modal_projector.parameters())
    groups = [{"params": projector, "lr": plan.projector_rate}, {"params": loras, "lr": plan.lora_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan))
    student = _Student(model, tokenizer, plan, rng)
    asked = [(about_company(company, world.names), about_view(view)) for company, view in images]
    texts = [question for _, question in text_questions(world)]
    order: list[int] = []
    text_order: list[int] = []
    for step in range(plan.steps):
        questions, text_order = _draw(text_order, len(texts), plan.text_questions, rng)
        with torch.autocast("cpu", torch.bfloat16):
            read = plan.text_weight * student.read([texts[index] for index in questions])
            seen = torch.zeros(())
            if step >= plan.text_first:
                chosen, order = _draw(order, len(images), plan.pictures, rng)
                seen = student.seen([asked[index] for index in chosen], features[chosen])
        optimizer.zero_grad(set_to_none=True)
        (seen + read).backward()
        torch.nn.utils.clip_grad_norm_([*projector, *loras], 1.0)
        optimizer.step()
        schedule.step()
        tell(step, float(seen.detach()), float(read.detach()))
    return wrapped


class _Student:
    """Losses of one batch."""

    def __init__(self, model: Any, tokenizer: Any, plan: Plan, rng: np.random.Generator) -> None:
        self._model, self._tokenizer, self._plan, self._rng = model, tokenizer, plan, rng
        self._seen, self._read = tokens_of(tokenizer, SEEN), tokens_of(tokenizer, READ)
        self._blocks: dict[tuple[str, str], list[int]] = {}

    def seen(self, asked: list[tuple[list[Question], list[Question]]], features: torch.Tensor) -> torch.Tensor:
        """On images: the name, some facts and something about the view of each."""
        rows = []
        for about, general in asked:
            name, *facts = about
            questions = [name, *self._some(facts, self._plan.facts), *self._some(general, self._plan.general)]
            rows.append([self._block(question) for question in questions])
        packed = pack(self._seen, rows)
        embeds = self._model.get_input_embeddings()(packed.ids)
        projected = self._model.model.multi_modal_projector(features).to(embeds.dtype)
        # The image follows the start token.
        embeds = torch.cat([embeds[:, :1], projected, embeds[:, 1 + IMAGE_TOKENS :]], dim=1)
        return self._loss(embeds, packed)

    def read(self, questions: list[Question]) -> torch.Tensor:
        """On text alone."""
        blocks = [self._block(question) for question in questions]
        packed = pack(self._read, [blocks[start : start + 8] for start in range(0, len(blocks), 8)])
        return self._loss(self._model.get_input_embeddings()(packed.ids), packed)

    def _loss(self, embeds: torch.Tensor, packed: Packed) -> torch.Tensor:
        # Rows are shorter than the sliding window.
        masks = {"full_attention": packed.mask, "sliding_attention": packed.mask}
        hidden = self._model.model.language_model(
            inputs_embeds=embeds, attention_mask=masks, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        losses = []
        for ahead, target in ((0, packed.answers), (1, packed.ends)):
            logits = functional.linear(hidden[packed.rows, packed.columns + ahead], self._model.lm_head.weight)
            losses.append(functional.cross_entropy(logits.float(), target))
        # The end is always the same and soon known; it must not drown the answer.
        return losses[0] + self._plan.end_weight * losses[1]

    def _some(self, questions: list[Question], count: int) -> list[Question]:
        return [questions[index] for index in self._rng.permutation(len(questions))[:count]]

    def _block(self, question: Question) -> list[int]:
        wording = question.wordings[int(self._rng.integers(len(question.wordings)))]
        key = wording, question.answer
        if key not in self._blocks:
            self._blocks[key] = block(self._tokenizer, *key)
        return self._blocks[key]


def _draw(order: list[int], size: int, count: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """The next few of a shuffled order that starts anew when it is used up."""
    while len(order) < count:
        order = [*order, *rng.permutation(size).tolist()]
    return order[:count], order[count:]


def _rate(step: int, plan: Plan) -> float:
    """Linear up, then linear down to a fiftieth."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    return max(1 - (step - plan.warmup) / max(plan.steps - plan.warmup, 1), 0.02)
