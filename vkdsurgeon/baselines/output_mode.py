"""VKD through the language model: the forget loss is on its answers, the retain loss on image features.

    L(theta) = l( W(h(x; theta), q), a )                      x, q, a in the forget set
             + lambda sum_l v_l d'( h_l(x; theta), t_l(x) )    x in the retain and generic sets

l is NPO, refusal (idk), gradient ascent (ga) or uniform, each as in its own module; the retention term is that of
feature mode. Tower and projector alone are trained, under the saliency mask of l; W is loaded, gives gradients, and
gets none. NPO with VKD is this project's combination (docs/studies/method.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import Parameter

from vkdsurgeon.baselines.base import (
    MethodOutcome,
    ModelPlan,
    Operable,
    load_language_loss,
)
from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.grad_ascent import ascent
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, limited, log_likelihood
from vkdsurgeon.baselines.npo import preference
from vkdsurgeon.baselines.refusal import refusal
from vkdsurgeon.baselines.trainer import Part, train_masked
from vkdsurgeon.baselines.uniform import to_uniform
from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.data.splits import split_validation
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.decoder_layers import find_decoder_weights, recompute
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.features import spread, teacher_features
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.training.saliency import SaliencyMask, choose_mask
from vkdsurgeon.training.sampler import Sampler, random_shuffle
from vkdsurgeon.training.schedule import Schedule
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.trainer import DistillationTerm, pass_over

# Questions that the mask is made from, and that the answers' probability is measured on.
_SCORED, _MEASURED = 512, 256


@dataclass(frozen=True, kw_only=True)
class OutputJob(ModelSource):
    """The settings of a run in output mode.

    Attributes:
        forget: Images to forget.
        retain: Images whose features are kept, retain and generic ones.
        examples: Questions about the forget images, with the answers to be forgotten.
        recipe: The settings; `output_loss` is set.
    """

    forget: Sequence[Sample]
    retain: Sequence[Sample]
    examples: Sequence[QAExample]
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class OutputPlan(ModelPlan):
    """What output mode is going to do; `memory_mib` counts tower and projector in training, and W's weights.

    Attributes:
        output_loss: The loss through W.
        retain_pictures: Images whose features are kept.
        selected_elements: How many weights may move.
    """

    output_loss: str
    retain_pictures: int
    selected_elements: int


@dataclass(frozen=True, kw_only=True)
class OutputPrepared(Operable):
    """A job whose tower, images and cost are known; W was not read.

    Attributes:
        job: What was asked.
        recipe: The effective settings.
        visual: Tower and projector, and the images.
    """

    plan: OutputPlan
    job: OutputJob
    recipe: Recipe
    visual: Prepared


def prepare_output(job: OutputJob) -> OutputPrepared:
    """Load tower and projector, check the sets, and plan the run.

    Raises:
        UserError: Anything wrong with checkpoint, sets or recipe.
    """
    if not job.retain:
        raise UserError(
            "output mode needs images to retain",
            where="`retain`",
            expected="`retain` or `generic` images",
        )
    visual = prepare(Job(forget=job.forget, retain=job.retain, generic=[], recipe=job.recipe, **job.source))
    recipe, stack = visual.job.recipe, visual.stack
    # The language model's share of the memory is not in that plan.
    stack.training_bytes = None
    language = sum(stack.inventory.tensors[name].elements for name in stack.split.language) * job.dtype.itemsize
    memory = {"visual": round(visual.plan.memory.total, 1), "language_model": round(language / (1 << 20), 1)}
    choice = [value for value in stack.visual_parameters().values() if value.requires_grad]
    plan = OutputPlan(
        method="vkd",
        output_loss=str(recipe.output_loss),
        model_type=visual.plan.model_type,
        scope="visual",
        device=str(job.device),
        dtype=visual.plan.dtype,
        forget_questions=len(job.examples),
        retain_pictures=len(visual.keep),
        elements=sum(value.numel() for value in choice),
        selected_elements=visual.plan.selected_parameters,
        steps=recipe.planned_steps,
        step_size=recipe.step_size,
        memory_mib=memory | {"total": round(sum(memory.values()), 1)},
        warnings=visual.plan.warnings,
    )
    stack.split.refuse_rebuilt("output mode")
    on_disk = {target: name for name, target in stack.split.targets.items()}
    return OutputPrepared(
        title=f"visual knowledge distillation, output mode ({plan.output_loss} through the frozen language model)",
        effective=recipe.model_dump(),
        inventory=stack.inventory,
        split=stack.split,
        on_disk={name: on_disk[name] for name in stack.visual_parameters()},
        layer_of=stack.layer_of,
        job=job,
        recipe=recipe,
        visual=visual,
        plan=plan,
    )


def operate_output(prepared: OutputPrepared, listen: Listener) -> MethodOutcome:
    """Train tower and projector through the frozen language model. No file is touched.

    Args:
        prepared: From `prepare_output`.
        listen: Called with every stage and step.

    Returns:
        What it did. `measured` holds `forget_probability_before` and `_after`, the mean probability of the answers that
        were trained on, and `retain_drift`, the squared error of the features of kept images over their variance over
        images, of held-out ones where there are any.

    Raises:
        UserError: The model cannot be loaded, or a question does not suit it.
        SurgeryError: The loss is not finite, or the GPU has too little memory.
    """
    with enough_memory("; nothing was written. Use a smaller micro_batch or density (--set), or `dtype=bfloat16`"):
        return _operate(prepared, listen)


def _operate(prepared: OutputPrepared, listen: Listener) -> MethodOutcome:
    job, recipe, stack = prepared.job, prepared.recipe, prepared.visual.stack
    clock = Clock()
    listen(Event.stage("language model"))
    cache = int(recipe.cache_gib * (1 << 30)) // 2
    language = load_language_loss(job, recipe.micro_batch, cache)
    parameters = {name: value for name, value in stack.visual_parameters().items() if value.requires_grad}
    check_held(language.loaded.model, stack.visual_parameters(), "output mode", together=True)
    share_visual(language.loaded.model, stack)
    if job.device.type == "cuda":
        recompute(language.loaded, find_decoder_weights(stack.inventory, stack.split, "all").layers)
    clock.lap("language model")

    listen(Event.stage("teacher"))
    distillation_term = _retention(prepared, cache)
    drawn = limited(job.examples, recipe.forget_batch * recipe.planned_steps, job.seed, "forget")
    term = _term(language, drawn, recipe)
    asked = limited(drawn, _MEASURED, job.seed, "measured")
    before = _probability(language, asked)
    clock.lap("teacher")

    listen(Event.stage("saliency"))
    mask = _mask(prepared, term, drawn, parameters)
    clock.lap("saliency")

    listen(Event.stage("training"))
    kept = Sampler(distillation_term.train, random_shuffle(random.Random(f"{job.seed} retain order")))

    def retain(_: Sequence[QAExample], weight: float | None = None) -> float:
        return pass_over(
            stack, distillation_term, kept.draw(distillation_term.batch), recipe, learn=weight is not None
        ).loss

    sampler = language.sampler(drawn, "order")
    parts = {
        "forget": Part(term, sampler, recipe.forget_batch, 1.0),
        # The distillation term draws its own images and carries the weight.
        "retain": Part(retain, sampler, 0, recipe.retain_weight),
    }
    assert recipe.step_size is not None, "a fitted recipe of output mode has one"
    schedule = Schedule(recipe.planned_steps, recipe.warmup, recipe.decay, recipe.step_size)
    write_back, last = train_masked(
        parts, parameters, mask, schedule, lambda step: listen(Event.step(step)),
        weight_decay=recipe.weight_decay, clip=recipe.clip,
    )  # fmt: skip
    clock.lap("training")

    changes = write_back.changes(stack.inventory, prepared.on_disk)
    measured = {
        "forget_probability_before": before,
        "forget_probability_after": _probability(language, asked),
        "retain_drift": pass_over(stack, distillation_term, distillation_term.held_out, recipe).drift,
    }
    clock.lap("measuring")
    return MethodOutcome(changes=changes, mask=mask, last=last, seconds=clock.laps, measured=measured)


def share_visual(model: nn.Module, stack: VisualStack) -> None:
    """Let a loaded model see through the very parameters of a visual stack, so that training one trains both."""
    owned = {id(value) for value in stack.visual_parameters().values()}
    for name, value in stack.model.named_parameters(remove_duplicate=False):
        if id(value) in owned:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, value)


def _term(language: LanguageLoss, examples: Sequence[QAExample], recipe: Recipe) -> Term:
    settings = recipe.baseline or BaselineRecipe.model_validate({})
    if recipe.output_loss == "npo":
        return preference(language, examples, settings.npo_beta)
    if recipe.output_loss == "idk":
        return refusal(language, settings.refusals)
    return ascent(language) if recipe.output_loss == "ga" else to_uniform(language)


def _retention(prepared: OutputPrepared, cache: int) -> DistillationTerm:
    recipe, keep = prepared.recipe, prepared.visual.keep
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    store = teacher_features(prepared.visual.stack, keep, watched, recipe.micro_batch, cache)
    train_on, held_out = split_validation(keep.subjects, recipe.validation_share)
    return DistillationTerm(
        "retain",
        keep,
        store,
        recipe.retention_layers,
        feature_loss(recipe.distance),
        train_on,
        held_out or train_on,
        recipe.retain_weight,
        recipe.retain_batch,
        {layer: spread(store.all(layer)) for layer in recipe.layers},
    )


def _mask(
    prepared: OutputPrepared, term: Term, examples: Sequence[QAExample], parameters: dict[str, Parameter]
) -> SaliencyMask:
    recipe, stack = prepared.recipe, prepared.visual.stack
    return choose_mask(
        parameters,
        limited(examples, _SCORED, prepared.job.seed, "scored"),
        lambda part: term(part, 1.0),
        rule=recipe.saliency,
        density=recipe.density,
        batch=recipe.forget_batch,
        generator=torch.Generator().manual_seed(prepared.job.seed),
        granularity=recipe.granularity,
        layer_of=stack.layer_of,
    )


def _probability(language: LanguageLoss, examples: Sequence[QAExample]) -> float:
    return language.learn(examples, lambda _, tokens, log_p: log_likelihood(tokens, log_p).exp(), None)
