"""Losses: distances of a student's features from their targets, over layers, and the divergence of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from vkdsurgeon_kernels import feature_distillation

from vkdsurgeon.config.forgetting import Distance


class FeatureLoss(Protocol):
    """A loss over layers, called as `vkdsurgeon_kernels.feature_distillation` is."""

    def __call__(
        self,
        students: Sequence[Tensor],
        targets: Sequence[Tensor],
        *,
        layer_weights: Sequence[float],
        sample_weights: Tensor,
        target_power: Sequence[Tensor],
    ) -> Tensor:
        """w_b sum_l v_l d(students_l, targets_l)_b.

        Args:
            students: L tensors [B, N, D]; the ones that get a gradient.
            targets: As the students.
            layer_weights: L numbers v.
            sample_weights: [B], w.
            target_power: L tensors [B], the mean square of each target.

        Returns:
            [B] float32.
        """


def feature_loss(distance: Distance = "nmse") -> FeatureLoss:
    """The fused distance of the kernels, see `vkdsurgeon_kernels.feature_distillation`."""
    return partial(feature_distillation, distance=distance)


class Targets(Protocol):
    """Target features by layer and image."""

    def get(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Features [B, N, D] of images that share one token count."""

    def powers(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Mean square of each image's features, [B] float32."""


def layer_loss(
    loss: FeatureLoss,
    layers: Mapping[str, float],
    features: Mapping[str, Tensor],
    targets: Targets,
    indices: Sequence[int],
    weight: float,
    *,
    read: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """A weighted sum of a loss over layers and images.

    Args:
        loss: From student and target features to a number per image.
        layers: Layers and their weights.
        features: Student features [B, N, D] by layer; `layers` are among them.
        targets: Where the targets of the images are.
        indices: B images that share one token count, as `targets` counts them.
        weight: Weight of each image. Weights are applied inside the loss: its gradient is computed in the forward pass,
            and scaling it in the backward pass would cost another read and write.
        read: Targets at `layers` that were read already.

    Returns:
        A scalar, float32.
    """
    device = features[next(iter(layers))].device
    if read is None:
        read = {layer: targets.get(layer, indices, device) for layer in layers}
    return loss(
        [features[layer] for layer in layers],
        [read[layer] for layer in layers],
        layer_weights=list(layers.values()),
        sample_weights=torch.full((len(indices),), weight, device=device),
        target_power=[targets.powers(layer, indices, device) for layer in layers],
    ).sum()


def accumulate(terms: Iterable[Tensor], weight: float | None) -> float:
    """The sum of scalar losses, of which each one's graph is gone before the next is made.

    Args:
        terms: Scalars; gradients are enabled while they are made if there is a weight.
        weight: Leave the gradient of the sum times this in the parameters; None only measures.
    """
    total = 0.0
    with torch.set_grad_enabled(weight is not None):
        for term in terms:
            # A question without an image teaches a vision tower nothing.
            if weight is not None and term.requires_grad:
                (weight * term).backward()
            total += float(term.detach())
    return total


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL( teacher || student ) over the last dimension of log-probabilities; gradients flow to the student.

    In this direction a student that is sure of a forgotten name still gets a gradient where the teacher looks.
    """
    # A log-probability of minus infinity would make nothing times infinity.
    teacher = teacher.clamp_min(-1e4)
    return (teacher.exp() * (teacher - student)).sum(dim=-1)
