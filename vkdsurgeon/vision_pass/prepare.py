"""A job checked, loaded and planned; nothing is changed yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.samples import NO_SUBJECT, Sample, check_disjoint
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.device import memory_of
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.image_features import PROJECTOR
from vkdsurgeon.model.precision import choose_precision
from vkdsurgeon.model.preparers import unfit
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.depth import limit_depth
from vkdsurgeon.vision_pass.division import with_copies
from vkdsurgeon.vision_pass.gpu_memory import fit_micro_batch, training_mib
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.objective import unknown_layers
from vkdsurgeon.vision_pass.plan import Plan, estimate_memory, images_at_once, warnings_for
from vkdsurgeon.vision_pass.replay import replayed_samples
from vkdsurgeon.vision_pass.replay_checks import name_warnings
from vkdsurgeon.vision_pass.teacher_checks import examine_teachers
from vkdsurgeon.vision_pass.teacher_quality import earlier_operations


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
    replayed = [] if job.replay is None else replayed_samples(stack, job.replay, job.recipe)
    job = replace(job, recipe=_with_all_outputs(job.recipe.fitted(len(job.forget) + len(replayed)), stack))
    cache = int(job.recipe.cache_gib * (1 << 30))
    forget = SampleSet(stack, [*job.forget, *replayed], cache // 2)
    if job.mixed is None:
        with _refused_as_unfit(stack):
            choose_precision(stack, next(iter(forget.batches([0], 1)))[1])
    kept = _affordable([*job.retain, *job.generic], job.recipe, job.seed)
    keep = SampleSet(stack, _identified(kept, {sample.subject for sample in job.forget}), cache // 2)
    placement = stack.split.placement
    parameters = stack.visual_parameters()
    tower = sum(parameters[name].numel() for name in placement.tower_parameters if name in parameters)
    total = sum(parameter.numel() for parameter in parameters.values())
    selected = round(job.recipe.density * sum(parameter.numel() for parameter in choice.values()))
    with _refused_as_unfit(stack):
        memory, shape = estimate_memory(stack, forget, keep, job.recipe, selected)
    at_once = images_at_once(job.recipe, with_copies(job.recipe, len(forget), len(keep)))
    fitted, memory = fit_micro_batch(job.recipe, memory, at_once, memory_of(stack.device))
    smaller = fitted.micro_batch < job.recipe.micro_batch
    job = replace(job, recipe=fitted)
    stack.training_bytes = round(training_mib(memory) * (1 << 20))
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
        forget_subjects=len({sample.subject for sample in job.forget}),
        retain_pictures=len(job.retain),
        retain_subjects=len({sample.subject for sample in job.retain}),
        replayed_pictures=len(replayed),
        replayed_subjects=len({sample.subject for sample in replayed}),
        generic_pictures=len(job.generic),
        steps=job.recipe.planned_steps,
        memory=memory,
        teacher=quality,
        other_teachers=teachers,
        modality=job.modality,
        warnings=(
            *stack.inventory.warnings,
            *stack.split.warnings,
            *warnings_for(job.recipe, stack.layers),
            *([f"micro_batch is {fitted.micro_batch}: more images at once would not fit the GPU"] if smaller else []),
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
        recipe: The other settings. The images stay those that the first recipe could afford, and no more of them pass
            at once than by it.

    Raises:
        UserError: The recipe names a layer or a depth that the tower does not have.
    """
    stack = prepared.stack
    for key, layer in unknown_layers(recipe, stack.layers):
        raise UserError("no such layer", where=f"recipe key {key!r}", value=layer, expected=", ".join(stack.layers))
    limit_depth(stack, recipe.depth)
    recipe = _with_all_outputs(recipe.fitted(len(prepared.forget)), stack)
    most = min(recipe.micro_batch, prepared.job.recipe.micro_batch)
    recipe = recipe.model_copy(update={"micro_batch": most})
    return replace(prepared, job=replace(prepared.job, recipe=recipe))


def _with_all_outputs(recipe: Recipe, stack: VisualStack) -> Recipe:
    # A tower that feeds several depths to the language model leaks the person through any that is not taught.
    def complete(layers: dict[str, float]) -> dict[str, float]:
        if PROJECTOR not in layers:
            return layers
        depths = {name: layers[PROJECTOR] for name in stack.outputs if name not in layers}
        return dict(sorted((layers | depths).items(), key=lambda item: stack.layers.index(item[0])))

    kept = None if recipe.retain_layers is None else complete(recipe.retain_layers)
    return recipe.model_copy(update={"layers": complete(recipe.layers), "retain_layers": kept})


@contextmanager
def _refused_as_unfit(stack: VisualStack) -> Iterator[None]:
    """What the first pass of an image raises, as an error that says how tower and processor disagree."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        raise unfit(stack.split, error) from error


def _affordable(samples: list[Sample], recipe: Recipe, seed: int) -> list[Sample]:
    # More images than the run can ever draw would cost a teacher's pass each and teach nothing.
    most = recipe.retain_batch * recipe.planned_steps
    if len(samples) <= most:
        return samples
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(samples), generator=generator)[:most].sort().values
    return [samples[index] for index in chosen.tolist()]


def _identified(samples: Sequence[Sample], forgotten: Collection[str]) -> list[Sample]:
    # An image without a name stands for someone of its own, and so do those of a crowd under one name: one crowd-wide
    # mean would leave nobody to mix.
    names = {sample.subject for sample in samples}
    crowds = {NO_SUBJECT} | (names - set(forgotten) if len(names) == 1 else set())
    return [
        replace(sample, subject=f"{sample.subject} {number}") if sample.subject in crowds else sample
        for number, sample in enumerate(samples)
    ]


def _sampling_warnings(used: int, given: int) -> list[str]:
    if used == given:
        return []
    return [f"{used} of {given} retain and generic images are used, as many as the steps can draw (recipe key steps)"]


def _overlap_warnings(job: Job) -> list[str]:
    forget, retain = ({sample.subject for sample in each} - {NO_SUBJECT} for each in (job.forget, job.retain))
    shared = forget & retain
    found = [] if job.replay is None else name_warnings(job.replay, forget, retain)
    if shared:
        harm = "that works against forgetting"
        found.append(f"{len(shared)} subject(s) of the forget set have images in the retain set: {harm}")
    return found


def _earlier_warnings(stack: VisualStack) -> list[str]:
    if not earlier_operations(stack.inventory, stack.split.modality):
        return []
    return [
        "those whom earlier runs forgot are in no set of this one, and come back with every further run: forget all of "
        "them again from the base, with the files of these runs as `replay` where their images are gone"
    ]
