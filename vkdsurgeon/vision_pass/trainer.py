"""The unlearning loop: a student is distilled towards its targets, one term for forgetting and one for retention.

    L = sum_l w_l d(h_l(x), T_l(x)), x forgotten  +  lambda sum_l v_l d'(h_l(x), t_l(x)), x kept

after Visual Knowledge Distillation (arXiv 2512.11325; the forget term is this project's reconstruction, see
docs/studies/method.md). The teacher is the checkpoint as given; its features were computed once and are the targets
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.losses import FeatureLoss, Targets, layer_loss
from vkdsurgeon.training.optimizer import take_step
from vkdsurgeon.training.sampler import Sampler, torch_shuffle
from vkdsurgeon.training.schedule import Schedule
from vkdsurgeon.vision_pass.step_control import StepControl

Harden = Callable[[Sequence[int]], None]

# Gradients that the moments settle on before the first step, and the size that probing starts from.
SETTLING_STEPS = 8
_FIRST_PROBE = 0.05


@dataclass(frozen=True)
class DistillationTerm:
    """A set of images and what the student is to see on them.

    Attributes:
        name: `forget` or `retain`.
        samples: The images.
        targets: Their target features at `layers` and at the recipe's layers.
        layers: Layers and their weights in the loss.
        loss: From student and target features at `layers` to a number per image.
        train: Indices to train on.
        held_out: Indices for the stop rule: images that were held out and copies of them, or copies of trained ones.
        weight: Weight in the loss.
        batch: Images per step.
        spreads: Mean square by which the targets of different images differ, by layer: what drift is a share of.
            Where a layer is missing, it is a share of the power of each image's target.
        originals: How many of the images, from the first, are no altered copies.
        unseen: Those of `held_out` that nothing was trained on in any form.
    """

    name: str
    samples: SampleSet
    targets: Targets
    layers: Mapping[str, float]
    loss: FeatureLoss
    train: list[int]
    held_out: list[int]
    weight: float
    batch: int
    spreads: Mapping[str, float] = field(default_factory=dict)
    originals: int = 0
    unseen: tuple[int, ...] = ()

    @property
    def apart(self) -> bool:
        """Whether nothing that is held out was trained on in any form."""
        return 0 < len(self.unseen) == len(self.held_out)


@dataclass
class Measure:
    """Sums over images of one term."""

    loss: float = 0.0
    similarity: float = 0.0
    drift: float = 0.0
    samples: int = 0


def train(
    stack: VisualStack,
    terms: Sequence[DistillationTerm],
    optimizer: MaskedAdamW,
    recipe: Recipe,
    *,
    steps: int,
    peak: float,
    generator: torch.Generator,
    listen: Callable[[Step], None],
    samplers: Sequence[Sampler[int]] | None = None,
    done: int = 0,
    harden: Harden | None = None,
    control: StepControl | None = None,
) -> None:
    """Run one full learning-rate schedule over the terms, or the rest of one.

    Args:
        stack: The student; its selected weights are moved in place.
        terms: Forgetting and retention.
        optimizer: Holds the mask.
        recipe: Everything else.
        steps: Number of optimizer steps.
        peak: Peak step size, relative to each weight; under a control, relative to the size that it holds.
        generator: Source of the order of the images.
        listen: Hears of every step.
        samplers: Of each term's images; fresh ones where there are none.
        done: Steps of the schedule that were made before.
        harden: Adds to the gradient of a step, given its forget images.
        control: Holds the step size and the drift by measuring what steps change.

    Raises:
        Diverged: The loss is not finite, or the control finds no step small enough.
    """
    samplers = samplers or [Sampler(term.train, torch_shuffle(generator)) for term in terms]
    images = 0

    def gather(step: int) -> tuple[float, dict[str, float]]:
        nonlocal images
        pressure = 1.0 if control is None else control.pressure
        measures = gather_gradients(stack, terms, samplers, optimizer, recipe, harden, pressure)
        images += sum(measure.samples for measure in measures.values())
        forget = measures["forget"]
        drift = measures["retain"].drift if "retain" in measures else float("nan")
        loss = sum(term.weight * measures[term.name].loss for term in terms)
        return loss, {"forget_loss": forget.loss, "similarity": forget.similarity, "retain_drift": drift}

    def move(step: int, size: float) -> None:
        taken = partial(take_step, optimizer)
        if control is None:
            taken(size)
        elif control.due(step, steps):
            control.follow(taken, size)
        else:
            taken(control.size * size)

    diverged = f"the loss became {{loss}} at step {{step}}; nothing was written. Try a lower {recipe.size_key}"
    started = time.monotonic()
    for step in run_steps(
        Schedule(steps, recipe.warmup, recipe.decay, peak), gather, move, diverged=diverged, done=done
    ):
        rate = images / max(time.monotonic() - started, 1e-9)
        listen(replace(step, values={**step.values, "images_per_second": rate}))


def settle(
    stack: VisualStack,
    terms: Sequence[DistillationTerm],
    optimizer: MaskedAdamW,
    recipe: Recipe,
    control: StepControl,
    *,
    generator: torch.Generator,
    harden: Harden | None = None,
) -> None:
    """Let the optimizer's moments settle without moving a weight, then find the step size.

    Args:
        stack: The student at the teacher's weights.
        terms: Forgetting and retention.
        optimizer: Fresh.
        recipe: The settings.
        control: Gets the size.
        generator: Source of the order of the images; its draws are nobody else's.
        harden: As for `train`.
    """
    samplers = [Sampler(term.train, torch_shuffle(generator)) for term in terms]
    for step in range(SETTLING_STEPS):
        gather_gradients(stack, terms, samplers, optimizer, recipe, harden)
        if step + 1 < SETTLING_STEPS:
            take_step(optimizer, 0.0)
    control.probe(partial(take_step, optimizer), _FIRST_PROBE)


def gather_gradients(
    stack: VisualStack,
    terms: Sequence[DistillationTerm],
    samplers: Sequence[Sampler[int]],
    optimizer: MaskedAdamW,
    recipe: Recipe,
    harden: Harden | None,
    pressure: float = 1.0,
) -> dict[str, Measure]:
    """Leave the gradient of one step's loss in the parameters.

    Args:
        stack: The student.
        terms: Forgetting and retention.
        samplers: Of each term's images.
        optimizer: Holds the gradients of selected elements.
        recipe: The settings.
        harden: As for `train`.
        pressure: Factor on the weight of retention.

    Returns:
        What each term measured, by name.
    """
    processes = stack.processes
    measures: dict[str, Measure] = {}
    for term, sampler in zip(terms, samplers, strict=True):
        # Every process draws the whole batch, so that as many images are drawn in the same order by however many.
        indices = sampler.draw(term.batch)
        weighed = replace(term, weight=pressure * term.weight) if term.name == "retain" else term
        own = pass_over(stack, weighed, processes.share(indices), recipe, learn=True, whole=len(indices))
        loss, similarity, drift = processes.totals([own.loss, own.similarity, own.drift])
        measures[term.name] = Measure(loss, similarity, drift, len(indices))
        if harden is not None and term.name == "forget":
            harden(indices)
    if processes.count > 1:
        processes.add(optimizer.packed_gradients())
    return measures


def pass_over(
    stack: VisualStack,
    term: DistillationTerm,
    indices: Sequence[int],
    recipe: Recipe,
    *,
    learn: bool = False,
    whole: int | None = None,
) -> Measure:
    """Pass images through the student once.

    Args:
        stack: The student.
        term: Where the images and their targets come from.
        indices: Which images.
        recipe: The layers that are compared, and the most images at once.
        learn: Leave the gradient of the term's weighted loss in the parameters.
        whole: Images that the means are over, where these are a part of them.

    Returns:
        Means over the images: the loss at the term's layers; the cosine similarity to the target and the squared
        error as a share of what images differ by, at the recipe's layers, whatever the term looks at.
    """
    images = whole or len(indices)
    learn = learn and term.weight > 0
    weight = term.weight if learn else 1.0
    watched = tuple(recipe.layers)
    losses: list[Tensor] = []
    compared: list[Tensor] = []
    for part, batch in term.samples.batches(indices, recipe.micro_batch):
        with torch.set_grad_enabled(learn):
            features = stack.features(batch, tuple(dict.fromkeys((*watched, *term.layers))))
            device = features[watched[0]].device
            targets = {layer: term.targets.get(layer, part, device) for layer in features}
            loss = layer_loss(term.loss, term.layers, features, term.targets, part, weight / images, read=targets)
        if learn:
            loss.backward()
        losses.append(loss.detach())
        for layer in watched:
            compared.append(_compare(features[layer].detach(), targets[layer], term.spreads.get(layer)))
    measure = Measure(samples=len(indices))
    if not losses:
        return measure
    # The device is waited for once: every number that is asked of it earlier would hold up the next part.
    share = 1 / (images * len(watched))
    for value in torch.stack(losses).tolist():
        measure.loss += value / weight
    for similarity, drift in torch.stack(compared).tolist():
        measure.similarity += share * similarity
        measure.drift += share * drift
    return measure


def _compare(student: Tensor, target: Tensor, spread: float | None) -> Tensor:
    """Sums over images of the cosine similarity and of the squared error as a share of what images differ by, [2]."""
    s, t = student.float(), target.float()
    similarity = torch.nn.functional.cosine_similarity(s, t, dim=-1).mean(dim=1).sum()
    whole = t.square().mean(dim=(1, 2)).clamp_min(1e-12) if spread is None else spread
    error = (s - t).square().mean(dim=(1, 2)) / whole
    return torch.stack([similarity, error.sum()])
