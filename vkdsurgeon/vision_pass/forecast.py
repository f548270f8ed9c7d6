"""How long a run would take, and what it would write: every stage before the steps is run, and a few steps, timed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from vkdsurgeon_kernels import restrict_weight_gradients

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.optimizer import build_optimizer, take_step
from vkdsurgeon.training.sampler import Sampler, torch_shuffle
from vkdsurgeon.vision_pass.hardening.terms import prepare_hardening
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.replay_format import replay_bytes
from vkdsurgeon.vision_pass.trainer import SETTLING_STEPS, gather_gradients

# The first of them compiles and fills caches.
_STEPS = 3


@dataclass(frozen=True)
class Forecast:
    """Time and disk of a run. Writing is left out: it takes as long as copying the checkpoint twice.

    Attributes:
        teacher_seconds: The teacher's pass over all images, and the forget targets; measured.
        saliency_seconds: The saliency mask; measured.
        step_seconds: One optimizer step, simulated attacks included; measured.
        seconds: Until the stop rule is checked for the first time.
        most_seconds: With every extension that the recipe allows.
        output_bytes: What the output directory adds to the disk: its size, without files that are linked.
        journal_bytes: Most that the journal takes while the run is under way.
        replay_bytes: Size of the replay file.
    """

    teacher_seconds: float
    saliency_seconds: float
    step_seconds: float
    seconds: float
    most_seconds: float
    output_bytes: int
    journal_bytes: int
    replay_bytes: int = 0


def forecast(
    prepared: Prepared, *, link_untouched: bool = False, language: Iterable[str] = (), replay: bool = False
) -> Forecast:
    """Choose the mask and take steps of size zero, timed; no weight moves.

    Args:
        prepared: From `teach`.
        link_untouched: Whether weight files that stay the same become links.
        language: Names on disk of what a decoder pass may change.
        replay: Whether a replay file is written.

    Raises:
        UserError: The mask selects nothing.
    """
    assert prepared.taught is not None
    job, stack, recipe = prepared.job, prepared.stack, prepared.job.recipe
    taught, parameters = prepared.taught.terms, stack.visual_parameters()
    own = torch.Generator().manual_seed(job.seed)
    clock = Clock()
    mask = choose_mask(stack, taught.forget, recipe, own)
    clock.lap("saliency")
    with ExitStack() as training:
        optimizer = build_optimizer(parameters, mask, weight_decay=recipe.weight_decay, max_norm=recipe.clip)
        training.callback(optimizer.detach_hooks)
        harden = prepare_hardening(stack, taught, recipe, job.seed)
        if harden is None:
            training.enter_context(restrict_weight_gradients(stack, optimizer))
        samplers = [Sampler(term.train, torch_shuffle(own)) for term in taught.both]
        for step in range(_STEPS):
            if step == 1:
                clock.lap("first step")
            gather_gradients(stack, taught.both, samplers, optimizer, recipe, harden)
            take_step(optimizer, 0.0)
        clock.lap("steps")
    step_seconds = clock.laps["steps"] / (_STEPS - 1)
    first = recipe.planned_steps + (0 if recipe.step_size else SETTLING_STEPS)
    so_far = prepared.taught.seconds + clock.laps["saliency"]
    extended = recipe.extensions * max(recipe.planned_steps // 2, 1)
    weight = next(iter(parameters.values())).element_size()
    # Of every selected element: weights now and at the best verdict, two moments, and masters where weights are short.
    per_element = 2 * weight + 8 + (4 if weight < 4 else 0)
    changed = (*stack.to_disk({name: parameters[name].detach() for name in mask.selected}), *language)
    return Forecast(
        teacher_seconds=prepared.taught.seconds,
        saliency_seconds=clock.laps["saliency"],
        step_seconds=step_seconds,
        seconds=so_far + first * step_seconds,
        most_seconds=so_far + (first + extended) * step_seconds,
        output_bytes=_output_bytes(stack.inventory, changed if link_untouched else None),
        # A state that is replaced stays until the new one is whole.
        journal_bytes=2 * (mask.count * per_element + mask.total // 8),
        replay_bytes=replay_bytes(taught.forget, taught.activations) if replay and taught.activations else 0,
    )


def _output_bytes(inventory: Inventory, changed: Iterable[str] | None) -> int:
    if changed is None:
        return inventory.size
    linked = set(inventory.shards) - {inventory.tensors[name].file for name in changed}
    return sum(file.size for file in inventory.files if file.path not in linked)
