"""The loop that all trained methods share: draw, add up the terms' gradients, step under a mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.baselines.examples import Exercise
from vkdsurgeon.baselines.language_loss import Term
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.training.optimizer import build_optimizer, take_step
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.sampler import GroupedSampler
from vkdsurgeon.training.schedule import Schedule
from vkdsurgeon.training.write_back import WriteBack


@dataclass(frozen=True)
class Part:
    """One term of a method's loss, and where its exercises come from.

    Attributes:
        term: The term.
        sampler: Exercises in the order they are drawn.
        batch: How many of them a step.
        weight: Of the term.
    """

    term: Term
    sampler: GroupedSampler[Exercise]
    batch: int
    weight: float


@dataclass(frozen=True)
class MethodStep:
    """What one step saw, before the step.

    Attributes:
        step: Counted from 1.
        steps: Of the schedule.
        loss: Weighted sum of the terms.
        terms: Name -> value.
        seconds_left: Estimate.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    seconds_left: float


def train(
    parts: Mapping[str, Part], optimizer: MaskedAdamW, schedule: Schedule, listen: Callable[[MethodStep], None]
) -> MethodStep:
    """Run the schedule.

    Args:
        parts: Terms by name.
        optimizer: Holds the mask.
        schedule: Steps and their size.
        listen: Hears of every step.

    Returns:
        The last step.

    Raises:
        SurgeryError: The loss is not finite.
    """
    started = time.monotonic()
    for step in range(schedule.steps):
        terms = {name: part.term(part.sampler.draw(part.batch), part.weight) for name, part in parts.items()}
        loss = sum(part.weight * terms[name] for name, part in parts.items())
        if not abs(loss) < float("inf"):
            raise SurgeryError(
                f"the loss became {loss} at step {step + 1}; nothing was written. Try a smaller step_size or fewer "
                "steps (section `baseline` of the recipe)"
            )
        take_step(optimizer, schedule.size(step))
        pace = (time.monotonic() - started) / (step + 1)
        seen = MethodStep(step + 1, schedule.steps, loss, terms, pace * (schedule.steps - step - 1))
        listen(seen)
    return seen


def train_masked(
    parts: Mapping[str, Part],
    parameters: Mapping[str, Parameter],
    mask: SaliencyMask,
    schedule: Schedule,
    listen: Callable[[MethodStep], None],
    *,
    relative: bool = True,
    weight_decay: float,
    clip: float,
) -> tuple[WriteBack, MethodStep]:
    """Run a schedule under a mask.

    Args:
        parts: Terms by name.
        parameters: By name; those without a selected element stop asking for gradients.
        mask: Which elements may move.
        schedule: Steps and their size.
        listen: Hears of every step.
        relative: Whether the schedule's size is relative to each weight, or a learning rate.
        weight_decay: Of the selected elements.
        clip: Norm of their gradient at most.

    Returns:
        What writes them back, and the last step.

    Raises:
        SurgeryError: The loss is not finite.
    """
    optimizer = build_optimizer(parameters, mask, relative=relative, weight_decay=weight_decay, max_norm=clip)
    try:
        write_back = WriteBack(parameters, mask, optimizer)
        return write_back, train(parts, optimizer, schedule, listen)
    finally:
        optimizer.detach_hooks()
