"""A baseline from a loaded checkpoint to changed tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import BitMask

from vkdsurgeon.baselines.base import (
    MethodOutcome,
    ModelPlan,
    Operable,
    load_language_loss,
)
from vkdsurgeon.baselines.examples import TrainingSets
from vkdsurgeon.baselines.grad_ascent import ascent
from vkdsurgeon.baselines.kl_min import to_original
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, cross_entropy, limited
from vkdsurgeon.baselines.manu import counted, neuron_scores, top_neurons
from vkdsurgeon.baselines.mmunlearner import fisher, fisher_mask
from vkdsurgeon.baselines.npo import preference
from vkdsurgeon.baselines.refusal import refusal
from vkdsurgeon.baselines.registry import BASELINES, Facts, Scope
from vkdsurgeon.baselines.rmu import Tap, misdirection, retention
from vkdsurgeon.baselines.scope import ScopedWeights, decoder_layers, find_weights, mlp_output
from vkdsurgeon.baselines.trainer import Part, train_masked
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.split import Split, split_checkpoint
from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.decoder_layers import check_loaded, recompute, recomputes
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.multimodal import load_processor, train_only
from vkdsurgeon.model.prompts import Encoder
from vkdsurgeon.model.source import ModelSource
from vkdsurgeon.training.clock import Clock
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.training.saliency import SaliencyMask, choose_mask, everything
from vkdsurgeon.training.schedule import Schedule

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MethodJob(ModelSource):
    """The settings of a run of a baseline.

    Attributes:
        method: One of `BASELINES`.
        training_sets: The examples.
        recipe: The settings.
        scope: What may move; None for what the method's source trains.
    """

    method: str
    training_sets: TrainingSets
    recipe: BaselineRecipe
    scope: Scope | None

    @property
    def facts(self) -> Facts:
        """The static facts of the method, from the registry."""
        return BASELINES[self.method]


@dataclass(frozen=True, kw_only=True)
class MethodPlan(ModelPlan):
    """What a baseline is going to do; `memory_mib` counts weights, and of elements that may move the gradient, two
    moments, and float32 masters of narrower weights.

    Attributes:
        retain_questions: Examples to keep.
        text_questions: Examples without images, for masks and importance alone.
        lr: Peak learning rate of all weights alike, where it was given.
    """

    retain_questions: int
    text_questions: int
    lr: float | None


@dataclass(frozen=True, kw_only=True)
class MethodPrepared(Operable):
    """A job whose weights and cost are known; no tensor was read."""

    plan: MethodPlan
    job: MethodJob
    weights: ScopedWeights
    schedule: Schedule


def prepare_method(job: MethodJob) -> MethodPrepared:
    """Plan a baseline and refuse what cannot work, before the model is loaded. Reads headers and the processor.

    Raises:
        UserError: The checkpoint, the sets or the recipe do not suit the method.
    """
    facts, recipe = job.facts, job.recipe
    if facts.needs_retain and not job.training_sets.retain:
        raise UserError(
            f"method {job.method} needs a retain set with questions and answers",
            where="`retain`",
            expected="records of others that are to be kept",
            remedy="give `retain`; of these methods only ga does without",
        )
    if job.training_sets.text and not facts.reads_text:
        readers = ", ".join(name for name, each in BASELINES.items() if each.reads_text)
        raise UserError(
            "this method does not use a text set",
            where="`text`",
            value=job.method,
            expected=f"methods that weigh text: {readers}; vkd with --decoder-pass",
            remedy="leave `text` out",
        )
    scope = job.scope or facts.scope
    inventory = take_inventory(job.model)
    split = split_checkpoint(inventory, tower=job.tower, projector=job.projector)
    split.refuse_missing()
    weights = find_weights(inventory, split, scope)
    if job.method == "rmu":
        _rmu_layers(inventory, split, weights, recipe)
    if job.method in ("manu", "rmu"):
        for layer in weights.layers:
            mlp_output(split.skeleton, layer)
    encoder = Encoder(load_processor(job.model))
    for first in (job.training_sets.forget[0], *job.training_sets.retain[:1], *job.training_sets.text[:1]):
        encoder.continuation(encoder.prompt(first.text, first.media, first.source), first.answer)
    relative = recipe.lr is None
    schedule = Schedule(
        steps=(recipe.steps or facts.steps) if facts.trains else 0,
        peak=recipe.lr or recipe.step_size or facts.step_size,
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
        forget_questions=len(job.training_sets.forget),
        retain_questions=len(job.training_sets.retain),
        text_questions=len(job.training_sets.text),
        elements=elements,
        steps=schedule.steps,
        step_size=schedule.peak if relative and facts.trains else None,
        lr=None if relative or not facts.trains else schedule.peak,
        memory_mib=_memory(job, inventory, elements),
        warnings=(*inventory.warnings, *split.warnings, *weights.warnings, *_warnings(job)),
    )
    return MethodPrepared(
        title=f"{job.method}: {facts.title}",
        effective={"baseline": recipe.model_dump() | {"steps": plan.steps, "step_size": plan.step_size}},
        inventory=inventory,
        split=split,
        on_disk=weights.on_disk,
        layer_of=partial(_layer_of, split, weights),
        job=job,
        weights=weights,
        schedule=schedule,
        plan=plan,
    )


def operate_method(prepared: MethodPrepared, listen: Listener) -> MethodOutcome:
    """Run a baseline. Loads the whole model; no file is touched.

    Args:
        prepared: From `prepare_method`.
        listen: Called with every stage and step.

    Raises:
        UserError: The model cannot be loaded, or a question does not suit it.
        SurgeryError: The loss is not finite, or the GPU has too little memory.
    """
    settings = "micro_batch or density (section `baseline` of the recipe)"
    with enough_memory(f"; nothing was written. Use a smaller {settings}, `dtype=bfloat16`, or a smaller `scope`"):
        return _operate(prepared, listen)


def _operate(prepared: MethodPrepared, listen: Listener) -> MethodOutcome:
    job, weights, recipe = prepared.job, prepared.weights, prepared.job.recipe
    clock = Clock()
    listen(Event.stage("language model"))
    language = load_language_loss(job, recipe.micro_batch, int(recipe.cache_gib * (1 << 30)))
    model = language.loaded.model
    check_held(model, weights.on_disk, "this method", together=True)
    check_loaded(model, prepared.inventory, weights.on_disk)
    if recomputes(recipe.checkpointing, job.device):
        recompute(language.loaded, decoder_layers(prepared.inventory, prepared.split, weights))
    clock.lap("language model")
    if job.method == "manu":
        return _prune(prepared, language, listen, clock)
    parameters: dict[str, Parameter] = train_only(model, weights.on_disk)

    listen(Event.stage("original"))
    parts, parameters = _parts(prepared, language, parameters)
    clock.lap("original")

    listen(Event.stage("mask"))
    mask = _mask(prepared, language, parameters)
    clock.lap("mask")

    listen(Event.stage("training"))
    write_back, last = train_masked(
        parts, parameters, mask, prepared.schedule, lambda step: listen(Event.step(step)),
        relative=recipe.lr is None, weight_decay=recipe.weight_decay, clip=recipe.clip,
    )  # fmt: skip
    clock.lap("training")
    changes = write_back.changes(prepared.inventory, weights.on_disk)
    return MethodOutcome(changes=changes, mask=mask, last=last, seconds=clock.laps)


def _parts(
    prepared: MethodPrepared, language: LanguageLoss, parameters: dict[str, Parameter]
) -> tuple[dict[str, Part], dict[str, Parameter]]:
    """The method's terms, and the parameters that it trains of those in scope."""
    job, recipe, steps = prepared.job, prepared.job.recipe, prepared.schedule.steps
    # The original answers no more questions than the steps can draw.
    forget = limited(job.training_sets.forget, recipe.forget_batch * steps, job.seed, "forget")
    retain = limited(job.training_sets.retain, recipe.retain_batch * steps, job.seed, "retain")
    held: Term | None = None
    if job.method == "rmu":
        layers, written = _rmu_layers(prepared.inventory, prepared.split, prepared.weights, recipe)
        trained = set(prepared.weights.visual) | written
        parameters = _only(parameters, trained)
        tap = Tap(language, layers)
        generator = torch.Generator().manual_seed(job.seed)
        forgotten: Term = misdirection(tap, forget, recipe.rmu_steering, generator)
        held = retention(tap, retain)
    elif job.method == "npo":
        forgotten = preference(language, forget, recipe.npo_beta)
    elif job.method == "idk":
        forgotten = refusal(language, recipe.refusals)
    else:
        forgotten = ascent(language)
    if held is None:
        held = to_original(language, retain) if job.method == "klmin" else cross_entropy(language)
    parts = {
        "forget": Part(forgotten, language.sampler(forget, "forget order"), recipe.forget_batch, recipe.forget_weight)
    }
    if job.method != "ga" and recipe.retain_weight > 0:
        parts["retain"] = Part(
            held, language.sampler(retain, "retain order"), recipe.retain_batch, recipe.retain_weight
        )
    return parts, parameters


def _mask(prepared: MethodPrepared, language: LanguageLoss, parameters: dict[str, Parameter]) -> SaliencyMask:
    job, recipe = prepared.job, prepared.job.recipe
    loss = cross_entropy(language)
    forget = limited(job.training_sets.forget, recipe.scored, job.seed, "scored forget")
    if job.method == "mmunlearner":
        kept = [
            *limited(job.training_sets.retain, recipe.scored, job.seed, "scored retain"),
            *limited(job.training_sets.text, recipe.scored, job.seed, "scored text"),
        ]
        scores = fisher(parameters, loss, forget)
        return fisher_mask(parameters, scores, fisher(parameters, loss, kept), recipe.mmunlearner_threshold)
    if recipe.density == 1.0:
        return everything(parameters)
    return choose_mask(
        parameters,
        forget,
        lambda part: loss(part, 1.0),
        rule="forget_gradient",
        density=recipe.density,
        batch=recipe.forget_batch,
        generator=torch.Generator().manual_seed(job.seed),
    )


def _prune(prepared: MethodPrepared, language: LanguageLoss, listen: Listener, clock: Clock) -> MethodOutcome:
    """MANU: the chosen neurons' columns become zero; there is nothing to train."""
    job, weights, recipe = prepared.job, prepared.weights, prepared.job.recipe
    model = language.loaded.model
    groups = {
        "tower": [mlp_output(model, layer) for layer in weights.tower_layers] if weights.visual else [],
        "decoder": [mlp_output(model, layer) for layer in weights.decoder.layers] if weights.decoder else [],
    }
    outputs = [path for paths in groups.values() for path in paths]
    listen(Event.stage("importance"))
    found = []
    loss = cross_entropy(language)
    for role, examples in (("forget", job.training_sets.forget), ("retain", job.training_sets.retain)):
        drawn = limited(examples, recipe.scored, job.seed, f"scored {role}")
        if role == "retain":
            drawn += limited(job.training_sets.text, recipe.scored, job.seed, "scored text")
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
    return MethodOutcome(changes=changes, mask=mask, last=None, seconds=clock.laps)


def _layer_of(split: Split, weights: ScopedWeights, name: str) -> str:
    part = "tower" if name in split.placement.tower_parameters else "projector"
    return next((path for path in weights.layers if name.startswith(f"{path}.")), part)


def _rmu_layers(
    inventory: Inventory, split: Split, weights: ScopedWeights, recipe: BaselineRecipe
) -> tuple[str, set[str]]:
    """The layer that is steered, and the decoder weights that RMU trains: MLP output matrices of it and two before."""
    layers = decoder_layers(inventory, split, weights)
    chosen = len(layers) // 4 if recipe.rmu_layer is None else recipe.rmu_layer
    if chosen >= len(layers):
        raise UserError(
            "the decoder has fewer layers",
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


def _warnings(job: MethodJob) -> list[str]:
    found = []
    if job.training_sets.passed_over:
        found.append(
            f"{job.training_sets.passed_over} records of the forget set in tasks general.* and text.* take no part: "
            "what else is to be seen, and what text says, is not to be forgotten"
        )
    if job.method == "mmunlearner" and not job.training_sets.text:
        found.append("no `text`: MMUnlearner's mask preserves the retain set alone, not facts given as text")
    return found
