"""The first stage of training: the projector alone, towards the embeddings of the words that are the answers.

It needs no pass of the language model, which costs two hundred times as much, and leaves it to read out what already
stands in its own words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from benchmarks.real.images import Shown
from benchmarks.real.language import tokens_of
from benchmarks.real.questions import about_company, about_view


@dataclass(frozen=True)
class Alignment:
    """How long and how fast."""

    steps: int = 400
    pictures: int = 48
    rate: float = 6e-3
    warmup: int = 20
    # Of the softmax over cosines.
    sharpness: float = 20.0


def align(
    model: Any,
    tokenizer: Any,
    images: Shown,
    names: tuple[str, ...],
    features: torch.Tensor,
    *,
    plan: Alignment,
    seed: int,
    tell: Callable[[int, float], None],
) -> None:
    """Train the projector in place.

    For every kind of question the score of an option is the logarithm of the mean over patches of
    exp(sharpness * cosine(patch, embedding of the option)): some patch has to say it.

    Args:
        model: From `compose`, in float32.
        tokenizer: Its tokenizer.
        images: What is to be seen.
        names: All names.
        features: float32 [V, 64, 384] of these images.
        plan: How long.
        seed: Of the order.
        tell: Called with step and loss.
    """
    asked = [[*about_company(company, names), *about_view(view)] for company, view in images]
    table = functional.normalize(model.get_input_embeddings().weight.detach(), dim=-1)
    kinds = []
    for questions in zip(*asked, strict=True):
        options = questions[0].options
        words = table[[tokens_of(tokenizer, f": {option}")[-1] for option in options]].clone()
        kinds.append((words, torch.tensor([options.index(question.answer) for question in questions])))
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=plan.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / plan.warmup, 1.0) * max(1 - step / plan.steps, 0.02)
    )
    source = torch.Generator().manual_seed(seed)
    for step in range(plan.steps):
        chosen = torch.randperm(len(images), generator=source)[: plan.pictures]
        said = functional.normalize(projector(features[chosen]), dim=-1)
        losses = []
        for words, answers in kinds:
            scores = (plan.sharpness * said @ words.T).logsumexp(1) - math.log(said.shape[1])
            losses.append(functional.cross_entropy(scores, answers[chosen]))
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        tell(step, float(loss.detach()))
