"""The operation on a prepared job: saliency mask, training, stop rule, changed tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW, restrict_weight_gradients

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener, Step
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.outcome import TrainingOutcome
from vkdsurgeon.training.resume.journal import Journal, Keeper, kept_by_first
from vkdsurgeon.training.resume.state import Trainee
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.write_back import rounded_to_disk
from vkdsurgeon.vision_pass.hardening.terms import prepare_hardening
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.state import VISUAL, Companions, TrainingState
from vkdsurgeon.vision_pass.step_control import StepControl, StepSize, probe_images
from vkdsurgeon.vision_pass.stop_rule import Choice, Verdict
from vkdsurgeon.vision_pass.target_readings import TargetReading
from vkdsurgeon.vision_pass.teach import teach
from vkdsurgeon.vision_pass.trainer import DistillationTerm, settle, train
from vkdsurgeon.vision_pass.validation import Validation, stretched_at


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
    terms = taught.both
    validation = Validation(stack, taught, recipe)

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
        harden = prepare_hardening(stack, taught, recipe, job.seed)
        control = None if recipe.step_size else _step_control(stack, terms[1], parameters, optimizer, recipe)
        companions = {"hardening": harden, "steps": control, "validation": validation}
        present = {name: each for name, each in companions.items() if each is not None}
        state = TrainingState(
            Trainee(parameters, mask, optimizer), terms, generator, recipe, companion=Companions(present)
        )
        if kept is not None:
            state.restore(kept)
        elif control is not None:
            own = torch.Generator().manual_seed(job.seed)
            settle(stack, terms, optimizer, recipe, control, generator=own, harden=harden)

        def heard(step: Step) -> None:
            state.stepped(step)
            if step.step in stretched_at(step.steps):
                validation.stretch()
            listen(Event.step(step))
            keeper.step()

        # A simulated attacker needs the gradients of all rows.
        if harden is None:
            training.enter_context(restrict_weight_gradients(stack, optimizer))
        keeper = training.enter_context(Keeper(journal, VISUAL, state.snapshot, stack.processes))
        while state.open:
            state.begin()
            if control is not None:
                control.favour_retention(sum(verdict.failed_in_retention_alone for verdict in state.verdicts))
            steps, peak = state.schedule
            train(
                stack,
                terms,
                optimizer,
                recipe,
                steps=steps,
                peak=peak,
                generator=generator,
                listen=heard,
                samplers=state.samplers,
                done=state.step,
                harden=harden,
                control=control,
            )
            with rounded_to_disk(stack, mask.selected):
                verdict = validation.judge()
            state.judged(verdict)
            stack.processes.agree("weights", lambda: [asdict(state.verdicts[-1]), state.trainee.digest()])
            listen(Event("verdict", subject=verdict))
            keeper.save()
    choice = state.settle()
    if kept is not None:
        with rounded_to_disk(stack, mask.selected):
            kept.agree(state.verdicts[choice.index].measured, validation.judge().measured)
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
        last=state.last,
        seconds=clock.laps,
        verdicts=tuple(state.verdicts),
        choice=choice,
        stand_ins=taught.targets.stand_ins,
        readings=taught.readings,
        step_size=None if control is None else control.record,
    )


def _step_control(
    stack: VisualStack,
    retain: DistillationTerm,
    parameters: Mapping[str, Parameter],
    optimizer: MaskedAdamW,
    recipe: Recipe,
) -> StepControl:
    layer = next(reversed(recipe.layers))
    probes = stack.processes.share(probe_images(retain.originals))
    batches = list(retain.samples.batches(probes, recipe.micro_batch))
    named = {name: value for name, value in parameters.items() if optimizer.selection(value) is not None}

    def look() -> list[Tensor]:
        with torch.no_grad():
            return [stack.features(batch, (layer,))[layer].detach() for _, batch in batches]

    def put(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            optimizer.set_selected_values(named[name], value)

    return StepControl(
        target=recipe.step_drift,
        bound=recipe.retain_drift,
        look=look,
        teacher=[retain.targets.get(layer, part, stack.device).detach() for part, _ in batches],
        variance=retain.spreads[layer],
        values=lambda: {name: optimizer.selected_values(value).clone() for name, value in named.items()},
        put=put,
        processes=stack.processes,
    )


def _frozen_fingerprint(parameters: Mapping[str, Parameter], mask: SaliencyMask) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters.items():
        frozen = parameter.detach()
        if name in mask.selected:
            frozen = frozen.masked_fill(mask.selected[name].to_bool(), 0)
        digest.update(raw_bytes(frozen))
    return digest.hexdigest()
