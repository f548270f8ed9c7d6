"""An attacker's fine-tuning, in memory only."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from vkdsurgeon.attacks.adapters import adapted
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.config.relearn import RelearnScope
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.score import encode
from vkdsurgeon.model.batches import answer_request, batches_of, log_probabilities
from vkdsurgeon.model.device_map import recomputing
from vkdsurgeon.model.multimodal import LoadedModel, train_only
from vkdsurgeon.training.kept_weights import kept_weights
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.losses import accumulate
from vkdsurgeon.training.sampler import Sampler, random_shuffle
from vkdsurgeon.training.schedule import Schedule


@contextmanager
def attacking(
    loaded: LoadedModel,
    scope: RelearnScope,
    *,
    rank: int,
    seed: int,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
) -> Iterator[list[nn.Parameter]]:
    """Let an attacker train a part of a model, and put every weight back, bit for bit, when the attack is over.

    Args:
        loaded: The model; `requires_grad` of its parameters is set.
        scope: `llm` trains LoRA matrices; the others as in `trainable`.
        rank: Rank of the LoRA matrices.
        seed: Seed of the LoRA matrices.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, if the wrong ones are found.

    Yields:
        What may be trained. A copy of it is held in the CPU's memory meanwhile, except for LoRA, which leaves the
        model's own weights alone.
    """
    if scope == "llm":
        with adapted(loaded, rank, seed, tower, projector) as matrices:
            yield matrices
        return
    parameters = trainable(loaded, scope, tower, projector)
    with kept_weights(parameters):
        yield parameters


def trainable(
    loaded: LoadedModel, scope: RelearnScope, tower: str | None = None, projector: Sequence[str] | None = None
) -> list[nn.Parameter]:
    """Freeze everything but what the attacker may touch; arguments as in `scope_names`.

    Raises:
        UserError: Some of it is not on the device.
    """
    return list(train_only(loaded.model, scope_names(loaded, scope, tower, projector)).values())


def scope_names(
    loaded: LoadedModel, scope: RelearnScope, tower: str | None = None, projector: Sequence[str] | None = None
) -> list[str]:
    """Names of the parameters in a scope.

    Args:
        loaded: The model.
        scope: `visual` is tower and projector, `all` every parameter, the others the rest.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, if the wrong ones are found.
    """
    names = [name for name, _ in loaded.model.named_parameters()]
    if scope == "all":
        return names
    placement = locate_visual(loaded.model, tower, projector)
    part = set(placement.visual_parameters if scope == "visual" else placement.language_parameters)
    return [name for name in names if name in part]


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
        seed: Seed of their order.

    Yields:
        Mean cross-entropy per answer token, in nats.

    Raises:
        Diverged: The loss is no number any more.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    sampler = Sampler(records, random_shuffle(random.Random(seed)))

    def gather(_: int) -> tuple[float, dict[str, float]]:
        optimizer.zero_grad(set_to_none=True)
        return backward(loaded, sampler.draw(batch_size)), {}

    def move(step: int, size: float) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()

    diverged = "the attack diverged at step {step} (loss {loss}); use a smaller `lr`"
    for step in run_steps(Schedule(steps, 0.0, 0.0), gather, move, diverged=diverged):
        yield step.loss
    optimizer.zero_grad(set_to_none=True)


def backward(loaded: LoadedModel, records: Sequence[Record]) -> float:
    """Leave the gradient of the right answers' cross-entropy with whatever asks for it.

    Returns:
        The mean over the answers' tokens, in nats.
    """
    requests = [
        answer_request(loaded.encoder, encode(loaded.encoder, record), str(record.answer)) for record in records
    ]
    loaded.encoder.drop_media()
    tokens = sum(len(request.wanted) for request in requests)
    # One backward pass per shape: sums add up to the mean over all tokens of the step.
    batches = batches_of(requests, lambda request: request.signature, len(requests))
    with recomputing(loaded.model):
        return accumulate((-log_probabilities(loaded, batch).sum() / tokens for batch in batches), 1.0)
