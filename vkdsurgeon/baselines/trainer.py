"""The loop that all trained methods share: draw, add up the terms' gradients, step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.baselines.examples import Exercise
from vkdsurgeon.baselines.language_loss import Term
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.training.optimizer import take_step
from vkdsurgeon.training.sampler import GroupedSampler
from vkdsurgeon.training.schedule import Schedule


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
