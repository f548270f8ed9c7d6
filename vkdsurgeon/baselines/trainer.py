"""The loop that all trained methods share: draw, add up the terms' gradients, step under a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.nn import Parameter

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import Term
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.optimizer import build_optimizer, take_step
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.sampler import GroupedSampler
from vkdsurgeon.training.schedule import Schedule
from vkdsurgeon.training.write_back import WriteBack


@dataclass(frozen=True)
class Part:
    """One term of a method's loss, and where its examples come from.

    Attributes:
        term: The term.
        sampler: Examples in the order they are drawn.
        batch: How many of them a step.
        weight: Weight of the term.
    """

    term: Term
    sampler: GroupedSampler[QAExample]
    batch: int
    weight: float


def train_masked(
    parts: Mapping[str, Part],
    parameters: Mapping[str, Parameter],
    mask: SaliencyMask,
    schedule: Schedule,
    listen: Callable[[Step], None],
    *,
    relative: bool = True,
    weight_decay: float,
    clip: float,
) -> tuple[WriteBack, Step]:
    """Run a schedule under a mask.

    Args:
        parts: Terms by name.
        parameters: By name; those without a selected element stop asking for gradients.
        mask: Which elements may move.
        schedule: Steps and their size.
        listen: Called with every step; its values are the terms.
        relative: Whether the schedule's size is relative to each weight, or a learning rate.
        weight_decay: Weight decay of the selected elements.
        clip: Norm of their gradient at most.

    Returns:
        What writes them back, and the last step.

    Raises:
        Diverged: The loss is not finite.
    """

    def gather(_: int) -> tuple[float, dict[str, float]]:
        terms = {name: part.term(part.sampler.draw(part.batch), part.weight) for name, part in parts.items()}
        return sum(part.weight * terms[name] for name, part in parts.items()), terms

    diverged = (
        "the loss became {loss} at step {step}; nothing was written. Try a smaller step_size or fewer steps (section "
        "`baseline` of the recipe)"
    )
    optimizer = build_optimizer(parameters, mask, relative=relative, weight_decay=weight_decay, max_norm=clip)
    try:
        write_back = WriteBack(parameters, mask, optimizer)
        for last in run_steps(schedule, gather, lambda _, size: take_step(optimizer, size), diverged=diverged):
            listen(last)
        return write_back, last
    finally:
        optimizer.detach_hooks()
