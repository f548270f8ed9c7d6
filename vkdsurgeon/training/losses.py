"""Losses: distances between a student's features and their targets, and the divergence of answers.

`mse`, `nmse`, `cosine` and `smooth_l1` compare token by token and come from the kernels. `relational`, `cka` and
`attention` compare structure only: what they leave free (rotations, scale, directions of tokens) the frozen language
model does read, so on their own they keep little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from vkdsurgeon_kernels import DISTANCES, feature_distillation

LayerDistance = Callable[[Tensor, Tensor], Tensor]
"""Student and target features [B, N, D] of one layer -> distance of each image, [B]."""


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


class Targets(Protocol):
    """Target features by layer and image."""

    def get(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Features [B, N, D] of images that share one token count."""

    def powers(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Mean square of each image's features, [B] float32."""


_TINY = 1e-12


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


def relational(student: Tensor, target: Tensor) -> Tensor:
    """Distance-wise relational knowledge distillation (Park et al., arXiv 1904.05068, equations 4 to 6).

        psi_ij = |m_i - m_j| / mean over pairs,    loss_i = mean over j != i of huber(psi_ij(h), psi_ij(t))

    with m the mean over an image's tokens, among the images that pass the tower together. Isometries and scale
    cost nothing.

    Args:
        student: [B, N, D].
        target: [B, N, D].

    Returns:
        [B] float32; zeros where B is 1, which has no pairs.
    """
    size = student.shape[0]
    if size < 2:
        return student.float().sum(dim=(1, 2)) * 0
    between = torch.nn.functional.smooth_l1_loss(_pairs(student), _pairs(target), reduction="none")
    return between.sum(dim=1) / (size - 1)


def cka(student: Tensor, target: Tensor) -> Tensor:
    """One minus linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, section 3).

        1 - |X'Y|_F^2 / (|X'X|_F |Y'Y|_F),    X, Y [B N, D] with column means removed

    Every token of the images that pass the tower together is an example. Rotations and scale cost nothing.

    Args:
        student: [B, N, D].
        target: [B, N, D].

    Returns:
        [B] float32, the same number B times, since it belongs to the images together.
    """
    x, y = (features.float().flatten(0, 1) for features in (student, target))
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    # Scaled first: fourth powers of features overflow and underflow float32.
    x, y = (examples / examples.square().mean().clamp_min(_TINY).sqrt() for examples in (x, y))
    aligned = (x.T @ y).square().sum()
    own = (x.T @ x).square().sum().clamp_min(_TINY).sqrt() * (y.T @ y).square().sum().clamp_min(_TINY).sqrt()
    return (1 - aligned / own).expand(student.shape[0])


def attention(student: Tensor, target: Tensor) -> Tensor:
    """Activation-based attention transfer (Zagoruyko and Komodakis, arXiv 1612.03928, equation 2, p = 2).

        Q_n = sum over channels of h_n^2,    loss = |Q(h) / |Q(h)| - Q(t) / |Q(t)||^2

    where the energy lies among the tokens. The norm is squared, because a norm has no gradient at zero, where
    retention starts.

    Args:
        student: [B, N, D].
        target: [B, N, D].

    Returns:
        [B] float32.
    """
    maps = [
        torch.nn.functional.normalize(features.float().square().sum(dim=-1), dim=1) for features in (student, target)
    ]
    return (maps[0] - maps[1]).square().sum(dim=1)


STRUCTURAL: dict[str, LayerDistance] = {"relational": relational, "cka": cka, "attention": attention}
"""Distances of structure by name."""


def feature_loss(weights: Mapping[str, float]) -> FeatureLoss:
    """The weighted sum of named distances.

    Args:
        weights: Name -> coefficient; names of `vkdsurgeon_kernels.DISTANCES` or `STRUCTURAL`.

    Raises:
        ValueError: An unknown name, or none.
    """
    unknown = [name for name in weights if name not in DISTANCES and name not in STRUCTURAL]
    if unknown or not weights:
        raise ValueError(f"unknown distance {unknown or dict(weights)}; known: {', '.join((*DISTANCES, *STRUCTURAL))}")
    by_token = {name: weight for name, weight in weights.items() if name in DISTANCES}
    structure = _over_layers([(weight, STRUCTURAL[name]) for name, weight in weights.items() if name in STRUCTURAL])
    if not by_token:
        return structure

    def loss(students: Sequence[Tensor], targets: Sequence[Tensor], **settings: Any) -> Tensor:
        values = feature_distillation(students, targets, distance=by_token, **settings)
        return values if len(by_token) == len(weights) else values + structure(students, targets, **settings)

    return loss


def _over_layers(terms: Sequence[tuple[float, LayerDistance]]) -> FeatureLoss:
    def loss(
        students: Sequence[Tensor],
        targets: Sequence[Tensor],
        *,
        layer_weights: Sequence[float],
        sample_weights: Tensor,
        target_power: Sequence[Tensor],
    ) -> Tensor:
        total = torch.zeros_like(sample_weights)
        for student, target, layer_weight in zip(students, targets, layer_weights, strict=True):
            for coefficient, distance in terms:
                total = total + layer_weight * coefficient * distance(student, target)
        return sample_weights * total

    return loss


def _pairs(features: Tensor) -> Tensor:
    """[B, B] distances between mean tokens, over their mean; zero on the diagonal."""
    means = features.float().mean(dim=1)
    apart = ~torch.eye(len(means), dtype=torch.bool, device=means.device)
    squares = (means[:, None] - means[None]).square().sum(dim=-1)
    # The root's slope at zero is infinite, and two equal images are at zero.
    distances = torch.where(apart, squares.clamp_min(_TINY).sqrt(), 0)
    return distances / (distances.sum() / apart.sum()).clamp_min(_TINY)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL( teacher || student ) over the last dimension of log-probabilities; gradients flow to the student.

    In this direction a student that is sure of a forgotten name still gets a gradient where the teacher looks.
    """
    # A log-probability of minus infinity would make nothing times infinity.
    teacher = teacher.clamp_min(-1e4)
    return (teacher.exp() * (teacher - student)).sum(dim=-1)
