"""One small perturbation for all images, trained to make the model say the right answers again.

Universal perturbations: arXiv 1610.08401; projected gradient descent with signed steps: arXiv 1706.06083.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.attacks.finetune import backward
from vkdsurgeon.attacks.variation import Variation
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.models import Role
from vkdsurgeon.evaluation.score import encode
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.training.events import Event, Listener, unheard
from vkdsurgeon.training.loop import run_steps
from vkdsurgeon.training.sampler import Sampler, random_shuffle
from vkdsurgeon.training.schedule import Schedule

NAME = "universal"
PIXELS = "pixel_values"


@dataclass(frozen=True)
class Universal:
    """Settings of the trained universal perturbation.

    Attributes:
        eps: Bound per channel and pixel, in 1/255 of the range from black to white.
        steps: Signed gradient steps.
        step_size: Size of one step, in 1/255. None uses 2.5 eps / steps, enough to cross the range once and back.
        batch_size: Records per step.
        seed: Seed of their order.
    """

    eps: float = 12.0
    steps: int = 40
    step_size: float | None = None
    batch_size: int = 32
    seed: int = 0

    @property
    def step(self) -> float:
        """The step size in 1/255."""
        return self.step_size if self.step_size is not None else min(self.eps, 2.5 * self.eps / max(self.steps, 1))


@dataclass(frozen=True)
class Pixels:
    """How a processor's pixel values relate to an image's.

    Attributes:
        shape: Channels, height and width of every image.
        mean: What was subtracted, [channels, 1, 1], white is 1.
        deviation: What it was divided by, likewise.
    """

    shape: tuple[int, int, int]
    mean: Tensor
    deviation: Tensor

    def perturbed(self, values: Tensor, delta: Tensor) -> Tensor:
        """Pixel values [B, C, H, W] with `delta` [C, H, W] (white is 1) added, kept between black and white."""
        mean, deviation = self.mean.to(values), self.deviation.to(values)
        moved = values + delta.to(values) / deviation
        return torch.minimum(torch.maximum(moved, -mean / deviation), (1.0 - mean) / deviation)


class UniversalPerturbation(Variation):
    """A variation that first trains the perturbation on the model that it is applied to.

    Args:
        recipe: The attacker's.
        records: Questions on images with right answers, that it is trained on.
        listener: Gets progress events.

    Attributes:
        losses: By model, cross-entropy in nats per answer token over the steps.
    """

    def __init__(self, recipe: Universal, records: Sequence[Record], listener: Listener = unheard) -> None:
        super().__init__(NAME)
        self._recipe = recipe
        self._records = list(records)
        self._listener = listener
        self.losses: dict[str, list[float]] = {}

    @contextmanager
    def applied(self, loaded: LoadedModel, role: Role) -> Iterator[None]:
        """As in `Variation`."""
        pixels = pixels_of(loaded, self._records)
        delta, self.losses[role] = train_perturbation(loaded, pixels, self._records, self._recipe, role, self._listener)
        with added(loaded, pixels, delta):
            yield


def pixels_of(loaded: LoadedModel, records: Sequence[Record]) -> Pixels:
    """How the model's processor lays out the images of these records.

    Raises:
        UserError: An image does not become one image-shaped tensor, or two become tensors of different shapes: there
            is no place for one perturbation of all.
    """
    shapes: dict[tuple[int, ...], str] = {}
    for record in records:
        prompt = encode(loaded.encoder, record)
        values = prompt.media.get(PIXELS)
        others = [name for name, each in prompt.media.items() if name != PIXELS and each.is_floating_point()]
        shape = () if values is None else tuple(values.shape)
        if len(shape) != 4 or shape[0] != 1 or shape[1] != 3 or others:
            raise UserError(
                f"the images of {loaded.model_type} are not one image-shaped tensor, so no one perturbation fits "
                "them all",
                where=record.source,
                value=list(shape),
                expected=f"{PIXELS} of shape [1, 3, height, width], as CLIP and SigLIP processors make them",
                remedy="leave `universal` away; the other perturbations work on the image itself",
            )
        shapes.setdefault(shape, record.source)
    loaded.encoder.drop_media()
    if len(shapes) > 1:
        raise UserError(
            "images become tensors of different shapes, so no one perturbation fits them all",
            where=list(shapes.values())[1],
            value=[list(shape) for shape in shapes],
            remedy="leave `universal` away, or bring the images to one size",
        )
    shape = next(iter(shapes))
    processor = loaded.encoder.processor.image_processor
    mean, deviation = [0.0] * 3, [1.0] * 3
    if getattr(processor, "do_normalize", False):
        mean, deviation = list(processor.image_mean), list(processor.image_std)
    white = 255.0 * float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 255.0
    return Pixels(
        (shape[1], shape[2], shape[3]),
        torch.tensor(mean).reshape(3, 1, 1) / white,
        torch.tensor(deviation).reshape(3, 1, 1) / white,
    )


@contextmanager
def added(loaded: LoadedModel, pixels: Pixels, delta: Tensor) -> Iterator[None]:
    """Add a perturbation to every image that reaches the model for a while; gradients flow to it."""

    def add(module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if named.get(PIXELS) is not None:
            named = {**named, PIXELS: pixels.perturbed(named[PIXELS], delta)}
        return positional, named

    hook = loaded.model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def train_perturbation(
    loaded: LoadedModel,
    pixels: Pixels,
    records: Sequence[Record],
    recipe: Universal,
    role: Role,
    listener: Listener = unheard,
) -> tuple[Tensor, list[float]]:
    """Find one perturbation under which the right answers are likely.

    delta <- clip(delta + step * sign(grad log p(answer | image + delta, question)), -eps, eps)

    Args:
        loaded: The model; its weights stay as they are.
        pixels: From `pixels_of`.
        records: Questions on images, with answers; every one is seen before any is seen again.
        recipe: The attacker's.
        role: Whose perturbation this is, for progress.
        listener: Gets progress events.

    Returns:
        The perturbation, float32 [C, H, W], white is 1, and the loss (nats per answer token) before every step.

    Raises:
        Diverged: The loss is no number.
    """
    eps, step_size = recipe.eps / 255.0, recipe.step / 255.0
    delta = torch.zeros(pixels.shape, device=loaded.device, requires_grad=True)
    sampler = Sampler(records, random_shuffle(random.Random(recipe.seed)))
    frozen = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    losses: list[float] = []

    def gather(_: int) -> tuple[float, dict[str, float]]:
        return backward(loaded, sampler.draw(recipe.batch_size)), {}

    def move(step: int, size: float) -> None:
        assert delta.grad is not None
        with torch.no_grad():
            delta.sub_(step_size * delta.grad.sign()).clamp_(-eps, eps)
        delta.grad = None

    diverged = "the universal perturbation diverged at step {step} (loss {loss})"
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with added(loaded, pixels, delta):
            for step in run_steps(Schedule(recipe.steps, 0.0, 0.0), gather, move, diverged=diverged):
                losses.append(step.loss)
                text = f"{role}: perturbation step {step.step} of {step.steps}"
                listener(Event("attack", text, {"model": role, "step": step.step, "loss": step.loss}, step))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return delta.detach(), losses
