"""An attacker's fine-tuning, in memory only."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.evaluation.batches import answer_request, batches_of, log_probabilities
from vkdsurgeon.evaluation.model import LoadedModel
from vkdsurgeon.evaluation.score import encode

Scope = Literal["visual", "all"]


def trainable(
    loaded: LoadedModel, scope: Scope, tower: str | None = None, projector: Sequence[str] | None = None
) -> list[nn.Parameter]:
    """Freeze everything but what the attacker may touch.

    Args:
        loaded: The model; `requires_grad` of its parameters is set.
        scope: `visual` is tower and projector.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, likewise.
    """
    names = set(locate_visual(loaded.model, tower, projector).visual_parameters) if scope == "visual" else None
    chosen = []
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(names is None or name in names)
        if parameter.requires_grad:
            chosen.append(parameter)
    return chosen


def fine_tune(
    loaded: LoadedModel,
    parameters: Sequence[nn.Parameter],
    records: Sequence[Record],
    *,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> Iterator[float]:
    """Train on the right answers, cross-entropy on their tokens, without dropout; yields the loss after every step.

    Args:
        loaded: The model, in `eval` mode; trained in place.
        parameters: From `trainable`.
        records: Questions with answers; every one is seen before any is seen again.
        steps: Optimiser steps.
        lr: Peak learning rate of AdamW; decays linearly to zero.
        batch_size: Records per step.
        seed: Of their order.

    Yields:
        Mean cross-entropy per answer token, in nats.

    Raises:
        SurgeryError: The loss is no number any more.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    order = _endless(len(records), random.Random(seed))
    for step in range(steps):
        chosen = [records[next(order)] for _ in range(min(batch_size, len(records)))]
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(loaded, chosen)
        if not math.isfinite(loss):
            raise SurgeryError(f"the attack diverged at step {step + 1} (loss {loss}); use a smaller --lr")
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        yield loss
    optimizer.zero_grad(set_to_none=True)


def _backward(loaded: LoadedModel, records: Sequence[Record]) -> float:
    requests = [
        answer_request(loaded.encoder, encode(loaded.encoder, record), str(record.answer)) for record in records
    ]
    loaded.encoder.drop_pictures()
    tokens = sum(len(request.wanted) for request in requests)
    total = 0.0
    # One backward pass per shape: sums add up to the mean over all tokens of the step.
    for batch in batches_of(requests, lambda request: request.signature, len(requests)):
        loss = -log_probabilities(loaded, batch).sum() / tokens
        loss.backward()
        total += float(loss.detach())
    return total


def _endless(count: int, generator: random.Random) -> Iterator[int]:
    while True:
        yield from generator.sample(range(count), count)
