"""VKD through the language model: forget by what the frozen W says, retain by visual knowledge distillation.

    L(theta) = l( W(h(x; theta), q), a )                      x, q, a in the forget set
             + lambda sum_l v_l d'( h_l(x; theta), t_l(x) )    x in the retain and generic sets

l is NPO, refusal (idk), gradient ascent (ga) or uniform, each as in its own module; the retention term is that of
feature mode. Tower and projector alone are trained, under the saliency mask of l; W is loaded, gives gradients, and
gets none. NPO with VKD is this project's combination (docs/method.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.decoder.asks import Deck
from vkdsurgeon.decoder.operation import recompute
from vkdsurgeon.decoder.weights import find_decoder_weights
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.evaluation.model import load_model
from vkdsurgeon.features import teacher_features
from vkdsurgeon.methods.exercises import Exercise
from vkdsurgeon.methods.ga import ascent
from vkdsurgeon.methods.idk import refusal
from vkdsurgeon.methods.loop import MethodStep, Part, Schedule, train
from vkdsurgeon.methods.moved import Movement, optimizer_for
from vkdsurgeon.methods.npo import preference
from vkdsurgeon.methods.scene import Scene, Term, limited, log_likelihood
from vkdsurgeon.methods.uniform import to_uniform
from vkdsurgeon.objectives.distances import feature_loss
from vkdsurgeon.orders import endless
from vkdsurgeon.recipe import BaselineRecipe, Recipe
from vkdsurgeon.saliency import SaliencyMask, gradient_scores, random_scores, select
from vkdsurgeon.stop import split_validation
from vkdsurgeon.surgery import Clock, Job, Prepared, prepare
from vkdsurgeon.unlearn import Lesson, pass_over
from vkdsurgeon.visual import VisualStack

# Questions that the mask is made from, and that the answers' probability is measured on.
_SCORED, _MEASURED = 512, 256


@dataclass(frozen=True)
class OutputJob:
    """What the user asked for.

    Attributes:
        model: The checkpoint directory.
        forget: Pictures to forget.
        retain: Pictures whose features are kept, retain and generic ones.
        exercises: Questions about the forget pictures, with the answers to be forgotten.
        recipe: The settings; `output_loss` is set.
        seed: Of all draws.
        device: Where the model runs.
        dtype: What its weights are held in.
        tower: Module path of the tower, where the split rule gets it wrong.
        projector: Module paths of the projector, likewise.
    """

    model: Path
    forget: Sequence[Picture]
    retain: Sequence[Picture]
    exercises: Sequence[Exercise]
    recipe: Recipe
    seed: int
    device: torch.device
    dtype: torch.dtype
    tower: str | None = None
    projector: Sequence[str] | None = None


@dataclass(frozen=True)
class OutputPlan:
    """What is going to happen.

    Attributes:
        method: Always `vkd`.
        output_loss: The loss through W.
        model_type: As in config.json.
        scope: Always `visual`.
        device: Where.
        dtype: What weights are held in.
        forget_questions: Exercises.
        retain_pictures: Pictures whose features are kept.
        elements: Weights that the mask selects from.
        selected_elements: How many of them may move.
        steps: Optimizer steps.
        step_size: Peak step, relative to each weight.
        memory_mib: Estimate for tower and projector in training, and for W's weights; without W's activations.
        warnings: What the user should know.
    """

    method: str
    output_loss: str
    model_type: str
    scope: str
    device: str
    dtype: str
    forget_questions: int
    retain_pictures: int
    elements: int
    selected_elements: int
    steps: int
    step_size: float
    memory_mib: dict[str, float]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class OutputPrepared:
    """A job whose tower, pictures and cost are known; W was not read.

    Attributes:
        job: What was asked.
        recipe: The effective settings.
        visual: Tower and projector, and the pictures.
        plan: What is going to happen.
    """

    job: OutputJob
    recipe: Recipe
    visual: Prepared
    plan: OutputPlan


@dataclass(frozen=True)
class OutputOutcome:
    """What a run did.

    Attributes:
        changes: Disk name -> new tensor in the dtype on disk, of every tensor with a selected element.
        mask: By module parameter.
        last: The last step.
        measured: `forget_probability_before` and `_after`, the mean probability of the answers that were trained on;
            `retain_drift`, the normalised squared error of kept pictures' features, held-out ones where there are any.
        seconds: Wall time per stage.
    """

    changes: dict[str, Tensor]
    mask: SaliencyMask
    last: MethodStep
    measured: dict[str, float]
    seconds: dict[str, float]


def prepare_output(job: OutputJob) -> OutputPrepared:
    """Load tower and projector, check the sets, and plan the run.

    Raises:
        UserError: Anything wrong with checkpoint, sets or recipe.
    """
    if job.recipe.saliency == "ratio":
        raise UserError(
            "saliency 'ratio' is not offered in output mode",
            where="recipe key 'saliency'",
            expected="forget_gradient, fisher or random",
        )
    if not job.retain:
        raise UserError(
            "output mode needs pictures to retain",
            where="--retain",
            expected="--retain or --generic pictures",
        )
    visual = prepare(
        Job(
            model=job.model,
            forget=job.forget,
            retain=job.retain,
            generic=[],
            recipe=job.recipe,
            seed=job.seed,
            device=job.device,
            dtype=job.dtype,
            tower=job.tower,
            projector=job.projector,
        )
    )
    recipe, inventory = visual.job.recipe, visual.stack.inventory
    language = sum(inventory.tensors[name].elements for name in visual.stack.split.language) * job.dtype.itemsize
    memory = {"visual": round(visual.plan.memory.total, 1), "language_model": round(language / (1 << 20), 1)}
    choice = [value for value in visual.stack.visual_parameters().values() if value.requires_grad]
    plan = OutputPlan(
        method="vkd",
        output_loss=str(recipe.output_loss),
        model_type=visual.plan.model_type,
        scope="visual",
        device=str(job.device),
        dtype=visual.plan.dtype,
        forget_questions=len(job.exercises),
        retain_pictures=len(visual.keep),
        elements=sum(value.numel() for value in choice),
        selected_elements=visual.plan.selected_parameters,
        steps=recipe.planned_steps,
        step_size=recipe.step_size,
        memory_mib=memory | {"total": round(sum(memory.values()), 1)},
        warnings=visual.plan.warnings,
    )
    return OutputPrepared(job, recipe, visual, plan)


def operate_output(prepared: OutputPrepared, listen: Callable[[str, MethodStep | None], None]) -> OutputOutcome:
    """Train tower and projector through the frozen language model. No file is touched.

    Args:
        prepared: From `prepare_output`.
        listen: Hears the name of each stage as it starts, and every step.

    Raises:
        UserError: The model cannot be loaded, or a question does not suit it.
        SurgeryError: The loss is not finite, or the GPU has too little memory.
    """
    try:
        return _operate(prepared, listen)
    except torch.OutOfMemoryError as error:
        raise SurgeryError(
            "the GPU has too little memory; nothing was written. Use a smaller --micro-batch or --density, or "
            "--dtype bfloat16"
        ) from error


def _operate(prepared: OutputPrepared, listen: Callable[[str, MethodStep | None], None]) -> OutputOutcome:
    job, recipe, stack = prepared.job, prepared.recipe, prepared.visual.stack
    clock = Clock()
    listen("language model", None)
    loaded = load_model(job.model, device=str(job.device), dtype=prepared.plan.dtype)
    loaded.model.requires_grad_(False)
    parameters = {name: value for name, value in stack.visual_parameters().items() if value.requires_grad}
    share_visual(loaded.model, stack)
    if job.device.type == "cuda":
        recompute(loaded, find_decoder_weights(stack.inventory, stack.split, "all"))
    cache = int(recipe.cache_gib * (1 << 30)) // 2
    scene = Scene(loaded, recipe.micro_batch, cache, job.seed)
    clock.lap("language model")

    listen("teacher", None)
    lesson = _retention(prepared, cache)
    drawn = limited(job.exercises, recipe.forget_batch * recipe.planned_steps, job.seed, "forget")
    term = _term(scene, drawn, recipe)
    sample = limited(drawn, _MEASURED, job.seed, "measured")
    before = _probability(scene, sample)
    clock.lap("teacher")

    listen("saliency", None)
    mask = _mask(prepared, term, drawn, parameters)
    clock.lap("saliency")

    listen("training", None)
    optimizer = optimizer_for(parameters, mask, weight_decay=recipe.weight_decay, clip=recipe.clip)
    movement = Movement(parameters, mask, optimizer)
    kinds = {each: scene.kind(each) for each in drawn}
    order = endless(lesson.train, random.Random(f"{job.seed} retain order"))

    def retain(_: Sequence[Exercise], weight: float | None = None) -> float:
        indices = [next(order) for _ in range(min(lesson.batch, len(lesson.train)))]
        return pass_over(stack, lesson, indices, recipe, learn=weight is not None).loss

    deck = Deck(drawn, kinds.__getitem__, random.Random(f"{job.seed} order"))
    parts = {
        "forget": Part(term, deck, recipe.forget_batch, 1.0),
        # The lesson draws its own pictures and carries the weight.
        "retain": Part(retain, deck, 0, recipe.retain_weight),
    }
    schedule = Schedule(recipe.planned_steps, recipe.step_size, True, recipe.warmup, recipe.decay)
    last = train(parts, optimizer, schedule, partial(listen, "training"))
    optimizer.detach_hooks()
    clock.lap("training")

    changes = movement.written(stack.inventory, {target: name for name, target in stack.split.targets.items()})
    measured = {
        "forget_probability_before": before,
        "forget_probability_after": _probability(scene, sample),
        "retain_drift": pass_over(stack, lesson, lesson.held_out, recipe).drift,
    }
    clock.lap("measuring")
    return OutputOutcome(changes, mask, last, measured, clock.laps)


def share_visual(model: nn.Module, stack: VisualStack) -> None:
    """Let a loaded model see through the very parameters of a visual stack, so that training one trains both."""
    owned = {id(value) for value in stack.visual_parameters().values()}
    for name, value in stack.model.named_parameters(remove_duplicate=False):
        if id(value) in owned:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, value)


def _term(scene: Scene, exercises: Sequence[Exercise], recipe: Recipe) -> Term:
    settings = recipe.baseline or BaselineRecipe.model_validate({})
    if recipe.output_loss == "npo":
        return preference(scene, exercises, settings.npo_beta)
    if recipe.output_loss == "idk":
        return refusal(scene, settings.refusals)
    return ascent(scene) if recipe.output_loss == "ga" else to_uniform(scene)


def _retention(prepared: OutputPrepared, cache: int) -> Lesson:
    recipe, keep = prepared.recipe, prepared.visual.keep
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    store = teacher_features(prepared.visual.stack, keep, watched, recipe.micro_batch, cache)
    train_on, held_out = split_validation(keep.subjects, recipe.validation_share)
    return Lesson(
        "retain",
        keep,
        store,
        recipe.retention_layers,
        feature_loss(recipe.retention_distance),
        train_on,
        held_out or train_on,
        recipe.retain_weight,
        recipe.retain_batch,
    )


def _mask(
    prepared: OutputPrepared, term: Term, exercises: Sequence[Exercise], parameters: dict[str, Parameter]
) -> SaliencyMask:
    recipe, stack = prepared.recipe, prepared.visual.stack
    scored = limited(exercises, _SCORED, prepared.job.seed, "scored")
    size = 1 if recipe.saliency == "fisher" else recipe.forget_batch
    parts = [scored[at : at + size] for at in range(0, len(scored), size)]
    scores = gradient_scores(
        parameters, (partial(term, part, 1.0) for part in parts), squared=recipe.saliency == "fisher"
    )
    if recipe.saliency == "random":
        generator = torch.Generator().manual_seed(prepared.job.seed)
        scores = random_scores(parameters, scores, generator)
    return select(parameters, scores, recipe.density, recipe.granularity, stack.layer_of)


def _probability(scene: Scene, exercises: Sequence[Exercise]) -> float:
    return scene.learn(exercises, lambda _, tokens, log_p: log_likelihood(tokens, log_p).exp(), None)
