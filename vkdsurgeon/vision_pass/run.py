"""The operation from checkpoint to changed tensors: teacher, targets, saliency mask, training, stop rule."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW, restrict_weight_gradients

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.pictures import NO_SUBJECT, Picture, check_disjoint
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model.features import PictureSet, TeacherPass, teacher_features
from vkdsurgeon.model.image_features import PROJECTOR
from vkdsurgeon.model.precision import choose_precision
from vkdsurgeon.model.preparers import unfit
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener, Step
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.outcome import TrainingOutcome
from vkdsurgeon.training.resume.journal import Journal, Keeper, kept_by_first
from vkdsurgeon.training.resume.state import Trainee
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.write_back import rounded_to_disk
from vkdsurgeon.vision_pass.depth import limit_depth
from vkdsurgeon.vision_pass.hardening.terms import prepare_hardening
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.objective import DistillationTerms, make_terms, unknown_layers
from vkdsurgeon.vision_pass.plan import Memory, Plan, estimate_memory, warnings_for
from vkdsurgeon.vision_pass.replay import Replay, replayed_pictures
from vkdsurgeon.vision_pass.replay_checks import check_images, name_warnings
from vkdsurgeon.vision_pass.state import VISUAL, Companions, TrainingState
from vkdsurgeon.vision_pass.step_control import StepControl, StepSize, probe_images
from vkdsurgeon.vision_pass.stop_rule import Choice, Verdict
from vkdsurgeon.vision_pass.target_readings import TargetReading
from vkdsurgeon.vision_pass.teacher import Teacher
from vkdsurgeon.vision_pass.teacher_checks import examine_teachers
from vkdsurgeon.vision_pass.teacher_quality import earlier_operations
from vkdsurgeon.vision_pass.trainer import DistillationTerm, settle, train
from vkdsurgeon.vision_pass.validation import Validation, stretched_at


@dataclass(frozen=True)
class Job(ModelSource):
    """What the user asked for.

    Attributes:
        forget: Images to forget.
        retain: Images whose reading is kept; may be empty when `generic` is not.
        generic: Images of others, used for retention as well.
        recipe: The settings.
        forget_teacher: Checkpoint whose features on the forget images are the targets (forget target `reference`).
        retain_teacher: Checkpoint whose features on kept images are kept, instead of the model's own.
        replay: What earlier requests kept of those whom they forgot, who are forgotten again.
    """

    # Declared again so that it can be given first, without its name.
    model: Path
    forget: Sequence[Picture]
    retain: Sequence[Picture]
    generic: Sequence[Picture]
    recipe: Recipe
    forget_teacher: Path | None = None
    retain_teacher: Path | None = None
    replay: Replay | None = None

    def teacher(self, role: str) -> Teacher | None:
        """The other model that teaches `forget` or `retain`, if there is one."""
        model = self.forget_teacher if role == "forget" else self.retain_teacher
        if model is None:
            return None
        return Teacher(option=f"`{role}_teacher`", **self.source | {"model": model})


@dataclass(frozen=True)
class Taught:
    """The terms of a job, and what making them took.

    Attributes:
        terms: Forgetting and retention.
        generator: Source of all later draws.
        seconds: Wall time.
    """

    terms: DistillationTerms
    generator: torch.Generator
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A job whose model and images are loaded and whose cost is known; nothing was changed yet.

    Attributes:
        job: As asked for, with everything derived that was left to the data.
        stack: Tower and projector.
        forget: Images to forget.
        keep: Retain and generic images.
        plan: What is going to be done.
        look: Runs the own teacher over a set.
        taught: What `teach` made; None before.
    """

    job: Job
    stack: VisualStack
    forget: PictureSet
    keep: PictureSet
    plan: Plan
    look: TeacherPass = teacher_features
    taught: Taught | None = None


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


def prepare(job: Job) -> Prepared:
    """Load tower and projector, check the sets, and plan the run. Reads only; writes nothing.

    Raises:
        UserError: Anything wrong with the checkpoint, the sets, or the recipe's layers.
    """
    if not job.forget:
        raise UserError("the forget set is empty", expected="at least one image")
    if not job.retain and not job.generic:
        raise UserError("neither retain nor generic images", expected="at least one set to keep")
    check_disjoint(job.forget, [*job.retain, *job.generic])
    stack = job.load_visual()
    for key, layer in unknown_layers(job.recipe, stack.layers):
        raise UserError("no such layer", where=f"recipe key {key!r}", value=layer, expected=", ".join(stack.layers))
    if (job.forget_teacher is None) == (job.recipe.forget_target == "reference"):
        raise UserError(
            "forget target 'reference' and a reference model go together",
            where="recipe key 'forget_target' and `forget_teacher`",
            value=f"{job.recipe.forget_target}, {job.forget_teacher or 'no reference model'}",
            expected="both or neither",
        )
    choice = limit_depth(stack, job.recipe.depth)
    replayed = [] if job.replay is None else replayed_pictures(stack, job.replay, job.recipe)
    job = replace(job, recipe=_with_all_outputs(job.recipe.fitted(len(job.forget) + len(replayed)), stack))
    cache = int(job.recipe.cache_gib * (1 << 30))
    forget = PictureSet(stack, [*job.forget, *replayed], cache // 2)
    if job.mixed is None:
        choose_precision(stack, next(iter(forget.batches([0], 1)))[1])
    kept = _affordable([*job.retain, *job.generic], job.recipe, job.seed)
    keep = PictureSet(stack, _identified(kept), cache // 2)
    placement = stack.split.placement
    parameters = stack.visual_parameters()
    tower = sum(parameters[name].numel() for name in placement.tower_parameters if name in parameters)
    total = sum(parameter.numel() for parameter in parameters.values())
    selected = round(job.recipe.density * sum(parameter.numel() for parameter in choice.values()))
    memory, shape = _first_pass(stack, forget, keep, job.recipe, selected)
    quality, teacher_warnings, teachers = examine_teachers(
        stack, forget, keep, job.recipe, {role: job.teacher(role) for role in ("forget", "retain")}
    )
    plan = Plan(
        model_type=stack.split.model_type,
        device=str(job.device),
        dtype=stack.precision,
        tower_parameters=tower,
        projector_parameters=total - tower,
        selected_parameters=selected,
        layers=tuple(job.recipe.layers),
        feature_shape=shape,
        forget_pictures=len(job.forget),
        forget_subjects=len({picture.subject for picture in job.forget}),
        retain_pictures=len(job.retain),
        retain_subjects=len({picture.subject for picture in job.retain}),
        replayed_pictures=len(replayed),
        replayed_subjects=len({picture.subject for picture in replayed}),
        generic_pictures=len(job.generic),
        steps=job.recipe.planned_steps,
        memory=memory,
        teacher=quality,
        other_teachers=teachers,
        modality=job.modality,
        warnings=(
            *stack.inventory.warnings,
            *stack.split.warnings,
            *warnings_for(job.recipe, stack.layers, job.processes.count),
            *_sampling_warnings(len(kept), len(job.retain) + len(job.generic)),
            *_overlap_warnings(job),
            *([] if job.replay is not None else _earlier_warnings(stack)),
            *teacher_warnings,
        ),
    )
    return Prepared(job, stack, forget, keep, plan)


def refit(prepared: Prepared, recipe: Recipe) -> Prepared:
    """The same job under another recipe, on what is loaded already; the plan stays that of the first recipe.

    Args:
        prepared: From `prepare`, its stack at the weights of the checkpoint, all of them asking for gradients.
        recipe: The other settings. The images stay those that the first recipe could afford.

    Raises:
        UserError: The recipe names a layer or a depth that the tower does not have.
    """
    stack = prepared.stack
    for key, layer in unknown_layers(recipe, stack.layers):
        raise UserError("no such layer", where=f"recipe key {key!r}", value=layer, expected=", ".join(stack.layers))
    limit_depth(stack, recipe.depth)
    recipe = _with_all_outputs(recipe.fitted(len(prepared.forget)), stack)
    return replace(prepared, job=replace(prepared.job, recipe=recipe))


def teach(prepared: Prepared) -> Prepared:
    """Run the teachers, make the forget targets and read them. Changes nothing.

    Raises:
        UserError: The sets do not suffice for the recipe, the targets still read as those who are to be forgotten, or a
            replay file stands for an image of a set.
    """
    job, started = prepared.job, time.monotonic()
    generator = torch.Generator().manual_seed(job.seed)
    terms = make_terms(
        prepared.stack,
        prepared.forget,
        prepared.keep,
        job.recipe,
        generator,
        forget_teacher=job.teacher("forget"),
        retain_teacher=job.teacher("retain"),
        look=prepared.look,
    )
    check_images(terms)
    prepared.stack.processes.agree(
        "forget targets", lambda: [list(map(asdict, terms.readings.values())), terms.targets.stand_ins]
    )
    return replace(
        prepared,
        plan=replace(prepared.plan, targets=dict(terms.readings)),
        taught=Taught(terms, generator, time.monotonic() - started),
    )


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
    mask = choose_mask(stack, terms, recipe, generator) if kept is None else kept.mask(parameters)
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
            if not state.verdicts and step.step in stretched_at(step.steps):
                validation.stretch()
            listen(Event.step(step))
            keeper.step()

        # A simulated attacker needs the gradients of all rows.
        if harden is None:
            training.enter_context(restrict_weight_gradients(stack, optimizer))
        keeper = training.enter_context(Keeper(journal, VISUAL, state.snapshot, stack.processes))
        while state.open:
            state.begin()
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
                state.judged(validation.judge())
            stack.processes.agree("weights", lambda: [asdict(state.verdicts[-1]), state.trainee.digest()])
            listen(Event("verdict", subject=state.verdicts[-1]))
            keeper.save()
    choice = state.settle()
    if kept is not None:
        with rounded_to_disk(stack, mask.selected):
            kept.agree(state.verdicts[choice.index].measured, validation.judge().measured)
    clock.lap("training")

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
    batches = list(retain.pictures.batches(probes, recipe.micro_batch))
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
        teacher=look(),
        variance=retain.spreads[layer],
        values=lambda: {name: optimizer.selected_values(value).clone() for name, value in named.items()},
        put=put,
        processes=stack.processes,
    )


def _with_all_outputs(recipe: Recipe, stack: VisualStack) -> Recipe:
    # A tower that feeds several depths to the language model leaks the person through any that is not taught.
    def complete(layers: dict[str, float]) -> dict[str, float]:
        if PROJECTOR not in layers:
            return layers
        depths = {name: layers[PROJECTOR] for name in stack.outputs if name not in layers}
        return dict(sorted((layers | depths).items(), key=lambda item: stack.layers.index(item[0])))

    kept = None if recipe.retain_layers is None else complete(recipe.retain_layers)
    return recipe.model_copy(update={"layers": complete(recipe.layers), "retain_layers": kept})


def _first_pass(
    stack: VisualStack, forget: PictureSet, keep: PictureSet, recipe: Recipe, selected: int
) -> tuple[Memory, tuple[int, ...]]:
    try:
        return estimate_memory(stack, forget, keep, recipe, selected)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        raise unfit(stack.split, error) from error


def _affordable(pictures: list[Picture], recipe: Recipe, seed: int) -> list[Picture]:
    # More images than the run can ever draw would cost a teacher's pass each and teach nothing.
    most = recipe.retain_batch * recipe.planned_steps
    if len(pictures) <= most:
        return pictures
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pictures), generator=generator)[:most].sort().values
    return [pictures[index] for index in chosen.tolist()]


def _sampling_warnings(used: int, given: int) -> list[str]:
    if used == given:
        return []
    return [f"{used} of {given} retain and generic images are used, as many as the steps can draw (recipe key steps)"]


def _overlap_warnings(job: Job) -> list[str]:
    forget, retain = ({picture.subject for picture in each} - {NO_SUBJECT} for each in (job.forget, job.retain))
    shared = forget & retain
    found = [] if job.replay is None else name_warnings(job.replay, forget, retain)
    if shared:
        harm = "that works against forgetting"
        found.append(f"{len(shared)} subject(s) of the forget set have images in the retain set: {harm}")
    return found


def _earlier_warnings(stack: VisualStack) -> list[str]:
    if not earlier_operations(stack.inventory):
        return []
    return [
        "those whom earlier runs forgot are in no set of this one, and come back with every further run: forget all of "
        "them again from the base, with the files of these runs as `replay` where their images are gone"
    ]


def _identified(pictures: Sequence[Picture]) -> list[Picture]:
    # Without labels each image stands for someone of its own; one crowd-wide mean would leave nobody to mix.
    if len({picture.subject for picture in pictures}) > 1:
        return list(pictures)
    return [replace(picture, subject=f"{picture.subject} {number}") for number, picture in enumerate(pictures)]


def _frozen_fingerprint(parameters: Mapping[str, Parameter], mask: SaliencyMask) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters.items():
        frozen = parameter.detach()
        if name in mask.selected:
            frozen = frozen.masked_fill(mask.selected[name].to_bool(), 0)
        digest.update(raw_bytes(frozen))
    return digest.hexdigest()
