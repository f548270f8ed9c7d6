"""The loop that all trained methods share: draw, add up the terms' gradients, step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.baselines.examples import Exercise
from vkdsurgeon.baselines.language_loss import Term
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.training.sampler import Deck


@dataclass(frozen=True)
class Part:
    """One term of a method's loss, and where its exercises come from.

    Attributes:
        term: The term.
        deck: Exercises in the order they are drawn.
        batch: How many of them a step.
        weight: Of the term.
    """

    term: Term
    deck: Deck[Exercise]
    batch: int
    weight: float


@dataclass(frozen=True)
class Schedule:
    """Steps and their size.

    Attributes:
        steps: Number of optimizer steps.
        peak: Peak step size relative to each weight; with `lr`, the learning rate of all of them.
        relative: Which of the two `peak` is.
        warmup: First share of the steps, of linear warm-up.
        decay: Last share of the steps, of linear decay to zero.
    """

    steps: int
    peak: float
    relative: bool
    warmup: float
    decay: float

    def share_of_peak(self, step: int) -> float:
        """The share of `peak` in one step, counted from 0."""
        warm = (step + 1) / (self.warmup * self.steps + 1)
        left = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return min(warm, left, 1.0)


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
        optimizer: Holds the mask; its groups have `unit_step`.
        schedule: Steps and their size.
        listen: Hears of every step.

    Returns:
        The last step.

    Raises:
        SurgeryError: The loss is not finite.
    """
    started = time.monotonic()
    for step in range(schedule.steps):
        share = schedule.peak * schedule.share_of_peak(step)
        for group in optimizer.param_groups:
            group["lr"] = share * (group["unit_step"] if schedule.relative else 1.0)
        terms = {name: part.term(part.deck.draw(part.batch), part.weight) for name, part in parts.items()}
        loss = sum(part.weight * terms[name] for name, part in parts.items())
        if not abs(loss) < float("inf"):
            raise SurgeryError(
                f"the loss became {loss} at step {step + 1}; nothing was written. Try a smaller step_size or fewer "
                "steps (section `baseline` of the recipe)"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pace = (time.monotonic() - started) / (step + 1)
        seen = MethodStep(step + 1, schedule.steps, loss, terms, pace * (schedule.steps - step - 1))
        listen(seen)
    return seen
