"""What a run is going to do and to cost, known before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.frozen_layers import output_of, parameters_after
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.division import LOOKED_AT, with_copies
from vkdsurgeon.vision_pass.objective import run_once
from vkdsurgeon.vision_pass.target_readings import TargetReading
from vkdsurgeon.vision_pass.teacher_quality import TeacherQuality

_MIB = 1 << 20
# Images of each set that are prepared to find the largest.
_SIZED = 32


@dataclass(frozen=True)
class Memory:
    """Estimate in MiB. Activations are measured on the largest image, everything else follows from sizes.

    `casts` are the weights as mixed precision rounds them for matrix products, `judging` the features that the stop
    rule compares at once, while no activations are held.
    """

    weights: float
    gradients: float
    saliency_scores: float
    mask: float
    optimizer: float
    activations: float
    features: float
    pictures: float
    hardening: float = 0.0
    casts: float = 0.0
    judging: float = 0.0

    @property
    def training(self) -> float:
        """Most MiB that training holds at once beyond the weights, wherever it runs.

        Scores and whole gradients are gone before the optimizer's state exists.
        """
        state = max(self.saliency_scores + self.gradients, self.optimizer)
        return self.mask + state + max(self.activations + self.casts, self.judging) + self.hardening

    @property
    def total(self) -> float:
        """Most MiB alive at once."""
        return self.weights + self.training + self.features + self.pictures


@dataclass(frozen=True)
class Plan:
    """The plan of one run.

    `replayed_pictures` and `replayed_subjects` count what earlier requests forgot and this one forgets again.
    `other_teachers` holds the digest of the visual tensors of every other teacher, by what it teaches; `targets` what
    the forget targets read as, by layer, once they are made.
    """

    model_type: str
    device: str
    dtype: str
    tower_parameters: int
    projector_parameters: int
    selected_parameters: int
    layers: tuple[str, ...]
    feature_shape: tuple[int, ...]
    forget_pictures: int
    forget_subjects: int
    retain_pictures: int
    retain_subjects: int
    generic_pictures: int
    steps: int
    memory: Memory
    teacher: TeacherQuality
    replayed_pictures: int = 0
    replayed_subjects: int = 0
    other_teachers: dict[str, str] = field(default_factory=dict)
    targets: dict[str, TargetReading] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=())
    modality: Modality = "image"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; memory in MiB."""
        facts = asdict(self)
        facts["memory_mib"] = {key: round(value, 1) for key, value in facts.pop("memory").items()}
        facts["memory_mib"]["total"] = round(self.memory.total, 1)
        return facts


def estimate_memory(
    stack: VisualStack, forget: SampleSet, keep: SampleSet, recipe: Recipe, selected: int
) -> tuple[Memory, tuple[int, ...]]:
    """Estimate a run's memory from the sizes of the weights and the largest image passed through the tower.

    Returns:
        The estimate, and the shape [N, D] of that image's features at the last of the recipe's layers.
    """
    parameters = list(stack.visual_parameters().values())
    moving = [parameter for parameter in parameters if parameter.requires_grad]
    elements = sum(parameter.numel() for parameter in moving)
    largest, prepared, mean = _largest_image(forget, keep)
    features, saved, casts = _one_pass(stack, *largest, tuple({**recipe.layers, **recipe.retention_layers}))
    per_sample = sum(values.nbytes for values in features.values())
    samples = with_copies(recipe, len(forget), len(keep))
    masters = selected * 4 if any(parameter.dtype != torch.float32 for parameter in parameters) else 0
    cache = recipe.cache_gib * 1024
    frozen = run_once(stack, recipe)
    output = output_of(stack, forget, frozen[-1]) if frozen else None
    # What frozen layers return is only kept where the cache has room for all of it.
    kept = 0 if output is None or output.nbytes * samples / _MIB > cache else output.nbytes
    memory = Memory(
        weights=sum(parameter.nbytes for parameter in parameters) / _MIB,
        gradients=sum(parameter.nbytes for parameter in moving) / _MIB,
        saliency_scores=elements * 4 / _MIB,
        mask=elements / 8 / _MIB,
        # Two moments and the packed gradient, float32; the list of positions; a copy of the selected weights, so that a
        # step can be undone.
        optimizer=(selected * (16 + (0 if recipe.step_size else 4)) + masters) / _MIB,
        activations=saved * images_at_once(recipe, samples) / _MIB,
        # Features and activations are as many as an image has tokens, and these as its pixels.
        features=min((per_sample * mean / prepared + kept) * samples / _MIB, cache),
        pictures=min(mean * samples / _MIB, cache),
        hardening=_hardening_bytes(list(parameters_after(stack, frozen).values()), recipe) / _MIB,
        casts=casts / _MIB,
        judging=sum(value.numel() * 4 for value in features.values()) * min(2 * LOOKED_AT, samples) / _MIB,
    )
    return memory, tuple(features[next(reversed(features))].shape[1:])


def _largest_image(forget: SampleSet, keep: SampleSet) -> tuple[tuple[SampleSet, int], int, float]:
    """Set and index of the largest prepared image of those that are tried, its bytes, and the mean of all of these."""
    sizes = {(images, index): size for images in (forget, keep) for index, size in images.sizes(_SIZED).items()}
    place, largest = max(sizes.items(), key=lambda each: each[1])
    return place, largest, sum(sizes.values()) / len(sizes)


def _one_pass(
    stack: VisualStack, images: SampleSet, index: int, layers: tuple[str, ...]
) -> tuple[dict[str, Tensor], int, int]:
    """One image's features [1, N, D], the bytes that its graph holds, and those of weights as it has them rounded."""
    parameters = list(stack.visual_parameters().values())
    _, batch = next(iter(images.batches([index], 1)))
    saved: dict[int, int] = {}
    casts: dict[int, int] = {}
    # A linear layer's product takes its weight turned around.
    shapes = {shape for each in parameters for shape in (tuple(each.shape), tuple(each.shape)[::-1])}
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            cast = stack.mixed and tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes
            (casts if cast else saved)[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The graph stays alive until all was counted, so that no freed storage is counted twice.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = stack.features(batch, layers)
    return {name: value.detach() for name, value in features.items()}, sum(saved.values()), sum(casts.values())


def _hardening_bytes(weights: Sequence[Tensor], recipe: Recipe) -> int:
    """What simulated attackers need: a copy of the weights, float32 offsets, and for a moment the gradient.

    Activations and identity heads, which are small, are left out.
    """
    if not recipe.tamper_weight:
        return 0
    elements = sum(weight.numel() for weight in weights)
    return sum(2 * weight.nbytes for weight in weights) + 4 * elements * (1 + (recipe.tamper_horizon is not None))


def images_at_once(recipe: Recipe, images: int) -> int:
    """Most images that training passes through the tower at once, of so many with all copies."""
    return min(recipe.micro_batch, max(recipe.forget_batch, recipe.retain_batch), images)


def warnings_for(recipe: Recipe, layers: Sequence[str]) -> list[str]:
    """What the user should know about a recipe that will run all the same."""
    last = layers[-1]
    found = []
    if last not in recipe.layers:
        found.append(f"the recipe does not look at {last!r}; what lies behind its last layer is not taught anything")
    return found
