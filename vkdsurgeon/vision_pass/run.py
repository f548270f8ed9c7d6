"""The operation on a prepared job: saliency mask, training, stop rule, changed tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch.nn import Parameter
from vkdsurgeon_kernels import restrict_weight_gradients

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.outcome import TrainingOutcome
from vkdsurgeon.training.resume.journal import Journal, Keeper, kept_by_first
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.vision_pass.course import Course
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.state import VISUAL
from vkdsurgeon.vision_pass.step_control import StepSize
from vkdsurgeon.vision_pass.stop_rule import Choice, Verdict
from vkdsurgeon.vision_pass.target_readings import TargetReading
from vkdsurgeon.vision_pass.teach import teach


@dataclass(frozen=True, kw_only=True)
class Outcome(TrainingOutcome):
    """What a vision pass did.

    Attributes:
        verdicts: The stop rule's verdicts, one per finished schedule.
        choice: The verdict that the changes belong to.
        stand_ins: Forgotten subject -> the identities its nobody was mixed from. Names: never write them out.
        readings: What the forget targets read as, by layer.
        step_size: What the step size was found to be; None where the recipe fixes it.
    """

    verdicts: tuple[Verdict, ...]
    choice: Choice
    stand_ins: dict[str, tuple[str, ...]]
    readings: Mapping[str, TargetReading] = field(default_factory=dict)
    step_size: StepSize | None = None

    @property
    def verdict(self) -> Verdict:
        """The stop rule's verdict on what is written."""
        return self.verdicts[self.choice.index]


def operate(prepared: Prepared, listen: Listener, journal: Journal | None = None) -> Outcome:
    """Make the student forget. Changes the loaded stack only; no file is touched but the journal's.

    Args:
        prepared: From `prepare`.
        listen: Hears of every stage, step and verdict.
        journal: Where training is saved, and gone on with. Whatever came before it is computed again: teachers,
            targets and draws follow from the checkpoint, the sets, the recipe and the seed.

    Raises:
        SurgeryError: The loss is not finite, or a frozen element changed.
        UserError: The sets do not suffice for the recipe, or the journal is damaged.
        KeyboardInterrupt: Interrupted; with a journal at the end of a step, and saved.
    """
    job, stack, recipe = prepared.job, prepared.stack, prepared.job.recipe
    parameters = stack.visual_parameters()

    if prepared.taught is None:
        listen(Event.stage("teacher"))
        prepared = teach(prepared)
    assert prepared.taught is not None
    taught, generator = prepared.taught.terms, prepared.taught.generator
    clock = Clock({"teacher": prepared.taught.seconds})

    listen(Event.stage("saliency"))
    kept = kept_by_first(journal, VISUAL, stack.processes)
    mask = choose_mask(stack, taught.forget, recipe, generator) if kept is None else kept.mask(parameters)
    frozen = _frozen_fingerprint(parameters, mask)
    stack.processes.agree("masks", lambda: frozen)
    clock.lap("saliency")

    listen(Event.stage("training"))
    with ExitStack() as training:
        optimizer = build_optimizer(parameters, mask, weight_decay=recipe.weight_decay, max_norm=recipe.clip)
        training.callback(optimizer.detach_hooks)
        course = Course.of(stack, taught, recipe, mask, optimizer, generator, job.seed)
        course.begin(kept)
        # A simulated attacker needs the gradients of all rows.
        if course.harden is None:
            training.enter_context(restrict_weight_gradients(stack, optimizer))
        keeper = training.enter_context(Keeper(journal, VISUAL, course.state.snapshot, stack.processes))
        course.run(listen, keeper)
    choice = course.end(kept)
    clock.lap("training")
    # The decoder pass has a language model to hold.
    taught.release()

    if _frozen_fingerprint(parameters, mask) != frozen:
        raise SurgeryError("a frozen weight changed during training; nothing was written. This is a bug, please report")
    changes = stack.to_disk({name: parameters[name].detach() for name in mask.selected})
    clock.lap("conversion")
    return Outcome(
        changes=changes,
        mask=mask,
        last=course.state.last,
        seconds=clock.laps,
        verdicts=tuple(course.state.verdicts),
        choice=choice,
        stand_ins=taught.targets.stand_ins,
        readings=taught.readings,
        step_size=None if course.control is None else course.control.record,
    )


def _frozen_fingerprint(parameters: Mapping[str, Parameter], mask: SaliencyMask) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters.items():
        frozen = parameter.detach()
        if name in mask.selected:
            frozen = frozen.masked_fill(mask.selected[name].to_bool(), 0)
        digest.update(raw_bytes(frozen))
    return digest.hexdigest()
