"""The training loop: gather a gradient, check the loss, move the weights, report the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

from vkdsurgeon.errors import Diverged
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.schedule import Schedule


def run_steps(
    schedule: Schedule,
    gather: Callable[[int], tuple[float, Mapping[str, float]]],
    move: Callable[[int, float], object],
    *,
    diverged: str,
    done: int = 0,
) -> Iterator[Step]:
    """Run a schedule, or the rest of it.

    Args:
        schedule: Steps and their sizes.
        gather: Leaves the gradient of a step, given its number from 0, with whatever trains; gives the loss, and what
            else to tell by name.
        move: Takes the step, given its number and its size by the schedule, and forgets the gradient.
        diverged: What to say of a loss that is not finite; `{loss}` and `{step}` are filled in.
        done: Steps that were taken before.

    Yields:
        Every step once it is taken.

    Raises:
        Diverged: The loss is not finite; the step was not taken.
    """
    started = time.monotonic()
    for step in range(done, schedule.steps):
        loss, values = gather(step)
        if not math.isfinite(loss):
            raise Diverged(diverged.format(loss=loss, step=step + 1))
        move(step, schedule.size(step))
        pace = (time.monotonic() - started) / (step + 1 - done)
        yield Step(step + 1, schedule.steps, loss, values, pace * (schedule.steps - step - 1))
