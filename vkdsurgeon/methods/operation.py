"""A baseline from a loaded checkpoint to changed tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import BitMask

from vkdsurgeon.checkpoint.inventory import Inventory, read_tensor, take_inventory
from vkdsurgeon.checkpoint.split import Split, split_checkpoint
from vkdsurgeon.decoder.asks import Deck
from vkdsurgeon.decoder.operation import recompute
from vkdsurgeon.decoder.weights import DecoderWeights, check_loaded
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.evaluation.model import load_model, load_processor
from vkdsurgeon.evaluation.prompts import Encoder
from vkdsurgeon.methods.exercises import Exercise, Material
from vkdsurgeon.methods.ga import ascent
from vkdsurgeon.methods.idk import refusal
from vkdsurgeon.methods.klmin import to_original
from vkdsurgeon.methods.loop import MethodStep, Part, Schedule, train
from vkdsurgeon.methods.manu import counted, neuron_scores, top_neurons
from vkdsurgeon.methods.mmunlearner import fisher, fisher_mask
from vkdsurgeon.methods.moved import Movement, all_of, optimizer_for
from vkdsurgeon.methods.names import BASELINES, Facts, Scope
from vkdsurgeon.methods.npo import preference
from vkdsurgeon.methods.rmu import Tap, misdirection, retention
from vkdsurgeon.methods.scene import Scene, Term, cross_entropy, limited
from vkdsurgeon.methods.weights import ScopedWeights, decoder_layers, find_weights, mlp_output
from vkdsurgeon.recipe import BaselineRecipe
from vkdsurgeon.saliency import SaliencyMask, gradient_scores, select
from vkdsurgeon.surgery import Clock

_MIB = 1 << 20


@dataclass(frozen=True)
class MethodJob:
    """What the user asked for.

    Attributes:
        model: The checkpoint directory.
        method: One of `BASELINES`.
        material: The exercises.
        recipe: The settings.
        scope: What may move; None for what the method's source trains.
        seed: Of all draws.
        device: Where the model runs.
        dtype: What its weights are held in.
        tower: Module path of the tower, where the split rule gets it wrong.
        projector: Module paths of the projector, likewise.
    """

    model: Path
    method: str
    material: Material
    recipe: BaselineRecipe
    scope: Scope | None
    seed: int
    device: torch.device
    dtype: torch.dtype
    tower: str | None = None
    projector: Sequence[str] | None = None

    @property
    def facts(self) -> Facts:
        """What is known of the method."""
        return BASELINES[self.method]


@dataclass(frozen=True)
class MethodPlan:
    """What is going to happen, and an estimate of its memory.

    Attributes:
        method: Its name.
        model_type: As in config.json.
        scope: What may move.
        device: Where.
        dtype: What weights are held in.
        forget_questions: Exercises to forget.
        retain_questions: Exercises to keep.
        text_questions: Exercises without pictures, for masks and importance alone.
        elements: Weights in scope.
        steps: Optimizer steps; 0 without training.
        step_size: Peak step, relative to each weight; None where `lr` is given.
        lr: Peak learning rate of all weights alike.
        memory_mib: Estimate: weights, what the optimizer holds for elements that may move (gradient, two moments, and
            float32 masters of narrower weights), without activations.
        warnings: What the user should know.
    """

    method: str
    model_type: str
    scope: str
    device: str
    dtype: str
    forget_questions: int
    retain_questions: int
    text_questions: int
    elements: int
    steps: int
    step_size: float | None
    lr: float | None
    memory_mib: dict[str, float]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class MethodPrepared:
    """A job whose weights and cost are known; no tensor was read."""

    job: MethodJob
    inventory: Inventory
    split: Split
    weights: ScopedWeights
    schedule: Schedule
    plan: MethodPlan


@dataclass(frozen=True)
class MethodOutcome:
    """What a baseline did.

    Attributes:
        changes: Disk name -> new tensor in the dtype on disk, of every tensor with a selected element.
        mask: By module parameter.
        selected: Disk name -> number of selected elements.
        last: The last step; None without training.
        seconds: Wall time per stage.
    """

    changes: dict[str, Tensor]
    mask: SaliencyMask
    selected: dict[str, int]
    last: MethodStep | None
    seconds: dict[str, float]


Listener = Callable[[str, MethodStep | None], None]


def prepare_method(job: MethodJob) -> MethodPrepared:
    """Plan a baseline and refuse what cannot work, before the model is loaded. Reads headers and the processor.

    Raises:
        UserError: The checkpoint, the sets or the recipe do not suit the method.
    """
    facts, recipe = job.facts, job.recipe
    if facts.needs_retain and not job.material.retain:
        raise UserError(
            f"method {job.method} needs a retain set with questions and answers",
            where="--retain",
            expected="records of others that are to be kept",
            remedy="give --retain; of these methods only ga does without",
        )
    if job.material.text and not facts.reads_text:
        readers = ", ".join(name for name, each in BASELINES.items() if each.reads_text)
        raise UserError(
            "a text set that this method has no use for",
            where="--text",
            value=job.method,
            expected=f"methods that weigh text: {readers}; vkd with --decoder-pass",
            remedy="leave --text out",
        )
    scope = job.scope or facts.scope
    inventory = take_inventory(job.model)
    split = split_checkpoint(inventory, tower=job.tower, projector=job.projector)
    weights = find_weights(inventory, split, scope)
    if job.method == "rmu":
        _rmu_layers(inventory, split, weights, recipe)
    if job.method in ("manu", "rmu"):
        for layer in (*weights.tower_layers, *(weights.decoder.layers if weights.decoder else ())):
            mlp_output(split.skeleton, layer)
    encoder = Encoder(load_processor(job.model))
    for first in (job.material.forget[0], *job.material.retain[:1], *job.material.text[:1]):
        encoder.continuation(encoder.prompt(first.question, first.picture, first.source), first.answer)
    schedule = Schedule(
        steps=(recipe.steps or facts.steps) if facts.trains else 0,
        peak=recipe.lr or recipe.step_size or facts.step_size,
        relative=recipe.lr is None,
        warmup=recipe.warmup,
        decay=recipe.decay,
    )
    elements = sum(inventory.tensors[name].elements for name in weights.on_disk.values())
    plan = MethodPlan(
        method=job.method,
        model_type=split.model_type,
        scope=scope.value,
        device=str(job.device),
        dtype=str(job.dtype).removeprefix("torch."),
        forget_questions=len(job.material.forget),
        retain_questions=len(job.material.retain),
        text_questions=len(job.material.text),
        elements=elements,
        steps=schedule.steps,
        step_size=schedule.peak if schedule.relative and facts.trains else None,
        lr=None if schedule.relative or not facts.trains else schedule.peak,
        memory_mib=_memory(job, inventory, elements),
        warnings=(*inventory.warnings, *split.warnings, *weights.warnings, *_told(job)),
    )
    return MethodPrepared(job, inventory, split, weights, schedule, plan)


def operate_method(prepared: MethodPrepared, listen: Listener) -> MethodOutcome:
    """Run a baseline. Loads the whole model; no file is touched.

    Args:
        prepared: From `prepare_method`.
        listen: Hears the name of each stage as it starts, and every step.

    Raises:
        UserError: The model cannot be loaded, or a question does not suit it.
        SurgeryError: The loss is not finite, or the GPU has too little memory.
    """
    try:
        return _operate(prepared, listen)
    except torch.OutOfMemoryError as error:
        raise SurgeryError(
            "the GPU has too little memory; nothing was written. Use a smaller micro_batch or density (section "
            "`baseline` of the recipe), --dtype bfloat16, or a smaller --scope"
        ) from error


def _operate(prepared: MethodPrepared, listen: Listener) -> MethodOutcome:
    job, weights = prepared.job, prepared.weights
    clock = Clock()
    listen("language model", None)
    loaded = load_model(job.model, device=str(job.device), dtype=prepared.plan.dtype)
    scope = DecoderWeights((), weights.on_disk, prepared.plan.elements, job.dtype, ())
    check_loaded(loaded.model, prepared.inventory, scope)
    loaded.model.requires_grad_(False)
    named = dict(loaded.model.named_parameters())
    parameters: dict[str, Parameter] = {name: named[name] for name in weights.on_disk}
    if job.recipe.checkpointing == "on" or (job.recipe.checkpointing == "auto" and job.device.type == "cuda"):
        layers = decoder_layers(prepared.inventory, prepared.split, weights)
        recompute(loaded, DecoderWeights(layers, {}, 0, job.dtype, ()))
    scene = Scene(loaded, job.recipe.micro_batch, int(job.recipe.cache_gib * (1 << 30)), job.seed)
    clock.lap("language model")
    if job.method == "manu":
        return _prune(prepared, scene, listen, clock)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    listen("original", None)
    parts, parameters = _parts(prepared, scene, parameters)
    clock.lap("original")

    listen("mask", None)
    mask = _mask(prepared, scene, parameters)
    clock.lap("mask")

    listen("training", None)
    recipe = job.recipe
    optimizer = optimizer_for(parameters, mask, weight_decay=recipe.weight_decay, clip=recipe.clip)
    movement = Movement(parameters, mask, optimizer)
    last = train(parts, optimizer, prepared.schedule, partial(listen, "training"))
    optimizer.detach_hooks()
    clock.lap("training")
    changes = movement.written(prepared.inventory, weights.on_disk)
    selected = {weights.on_disk[name]: chosen.count for name, chosen in mask.selected.items()}
    return MethodOutcome(changes, mask, selected, last, clock.laps)


def _parts(
    prepared: MethodPrepared, scene: Scene, parameters: dict[str, Parameter]
) -> tuple[dict[str, Part], dict[str, Parameter]]:
    """The method's terms, and the parameters that it trains of those in scope."""
    job, recipe, steps = prepared.job, prepared.job.recipe, prepared.schedule.steps
    # The original answers no more questions than the steps can draw.
    forget = limited(job.material.forget, recipe.forget_batch * steps, job.seed, "forget")
    retain = limited(job.material.retain, recipe.retain_batch * steps, job.seed, "retain")
    held: Term | None = None
    if job.method == "rmu":
        layers, written = _rmu_layers(prepared.inventory, prepared.split, prepared.weights, recipe)
        trained = set(prepared.weights.visual) | written
        parameters = _only(parameters, trained)
        tap = Tap(scene, layers)
        generator = torch.Generator().manual_seed(job.seed)
        forgotten: Term = misdirection(tap, forget, recipe.rmu_steering, generator)
        held = retention(tap, retain)
    elif job.method == "npo":
        forgotten = preference(scene, forget, recipe.npo_beta)
    elif job.method == "idk":
        forgotten = refusal(scene, recipe.refusals)
    else:
        forgotten = ascent(scene)
    if held is None:
        held = to_original(scene, retain) if job.method == "klmin" else cross_entropy(scene)
    parts = {"forget": Part(forgotten, _deck(scene, forget, "forget"), recipe.forget_batch, recipe.forget_weight)}
    if job.method != "ga" and recipe.retain_weight > 0:
        parts["retain"] = Part(held, _deck(scene, retain, "retain"), recipe.retain_batch, recipe.retain_weight)
    return parts, parameters


def _deck(scene: Scene, exercises: Sequence[Exercise], role: str) -> Deck[Exercise]:
    kinds = {each: scene.kind(each) for each in exercises}
    return Deck(exercises, kinds.__getitem__, random.Random(f"{scene.seed} {role} order"))


def _mask(prepared: MethodPrepared, scene: Scene, parameters: dict[str, Parameter]) -> SaliencyMask:
    job, recipe = prepared.job, prepared.job.recipe
    loss = cross_entropy(scene)
    forget = limited(job.material.forget, recipe.scored, job.seed, "scored forget")
    if job.method == "mmunlearner":
        kept = [
            *limited(job.material.retain, recipe.scored, job.seed, "scored retain"),
            *limited(job.material.text, recipe.scored, job.seed, "scored text"),
        ]
        scores = fisher(parameters, loss, forget)
        return fisher_mask(parameters, scores, fisher(parameters, loss, kept), recipe.mmunlearner_threshold)
    if recipe.density == 1.0:
        return all_of(parameters)
    batches = [forget[at : at + recipe.forget_batch] for at in range(0, len(forget), recipe.forget_batch)]
    scores = gradient_scores(parameters, (partial(loss, batch, 1.0) for batch in batches))
    return select(parameters, scores, recipe.density)


def _prune(prepared: MethodPrepared, scene: Scene, listen: Listener, clock: Clock) -> MethodOutcome:
    """MANU: the chosen neurons' columns become zero; there is nothing to train."""
    job, weights, recipe = prepared.job, prepared.weights, prepared.job.recipe
    model = scene.loaded.model
    groups = {
        "tower": [mlp_output(model, layer) for layer in weights.tower_layers] if weights.visual else [],
        "decoder": [mlp_output(model, layer) for layer in weights.decoder.layers] if weights.decoder else [],
    }
    outputs = [path for paths in groups.values() for path in paths]
    listen("importance", None)
    found = []
    loss = cross_entropy(scene)
    for role, exercises in (("forget", job.material.forget), ("retain", job.material.retain)):
        drawn = limited(exercises, recipe.scored, job.seed, f"scored {role}")
        if role == "retain":
            drawn += limited(job.material.text, recipe.scored, job.seed, "scored text")
        with counted(model, outputs) as moments:
            loss(drawn)
        found.append(dict(moments))
    forget, retain = found
    selected: dict[str, BitMask] = {}
    changes: dict[str, Tensor] = {}
    for paths in groups.values():
        if not paths:
            continue
        scores = neuron_scores({path: forget[path] for path in paths}, retain)
        for path, neurons in top_neurons(scores, recipe.manu_fraction).items():
            name = f"{path}.weight"
            disk = read_tensor(prepared.inventory, weights.on_disk[name])
            columns = neurons.unsqueeze(0).expand(disk.shape)
            selected[name] = BitMask.from_bool(columns)
            changes[weights.on_disk[name]] = disk.masked_fill(columns, 0)
    clock.lap("importance")
    mask = SaliencyMask(selected, prepared.plan.elements)
    counts = {weights.on_disk[name]: chosen.count for name, chosen in selected.items()}
    return MethodOutcome(changes, mask, counts, None, clock.laps)


def _rmu_layers(
    inventory: Inventory, split: Split, weights: ScopedWeights, recipe: BaselineRecipe
) -> tuple[str, set[str]]:
    """The layer that is steered, and the decoder weights that RMU trains: MLP output matrices of it and two before."""
    layers = decoder_layers(inventory, split, weights)
    chosen = len(layers) // 4 if recipe.rmu_layer is None else recipe.rmu_layer
    if chosen >= len(layers):
        raise UserError(
            "the decoder is not that deep",
            where="recipe key 'baseline.rmu_layer'",
            value=chosen,
            expected=f"0 to {len(layers) - 1}",
        )
    if weights.decoder is None:
        return layers[chosen], set()
    outputs = {f"{mlp_output(split.skeleton, layer)}.weight" for layer in layers[max(chosen - 2, 0) : chosen + 1]}
    return layers[chosen], outputs & weights.decoder.on_disk.keys()


def _only(parameters: dict[str, Parameter], wanted: set[str]) -> dict[str, Parameter]:
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in wanted)
    return {name: parameter for name, parameter in parameters.items() if name in wanted}


def _memory(job: MethodJob, inventory: Inventory, elements: int) -> dict[str, float]:
    width = job.dtype.itemsize
    whole = sum(entry.elements for entry in inventory.tensors.values()) * width
    moving = round(elements * job.recipe.density) if job.facts.trains else 0
    held = moving * (4 + 8 + (4 if width < 4 else 0))
    scores = 2 * elements * 4 if job.method == "mmunlearner" else elements * 4 if job.recipe.density < 1 else 0
    facts = {"weights": whole, "optimizer": held, "scores": scores, "total": whole + max(held, scores)}
    return {key: round(value / _MIB, 1) for key, value in facts.items()}


def _told(job: MethodJob) -> list[str]:
    told = []
    if job.material.passed_over:
        told.append(
            f"{job.material.passed_over} records of the forget set in tasks general.* and text.* take no part: what "
            "else is to be seen, and what text says, is not to be forgotten"
        )
    if job.method == "mmunlearner" and not job.material.text:
        told.append("no --text: MMUnlearner's mask preserves the retain set alone, not what text says of the forgotten")
    return told
