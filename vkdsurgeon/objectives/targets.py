"""Forget targets: what the student is to see instead.

*Nobody*: for each forgotten subject a point in feature space that is nobody, far from the subject and still on the
manifold of plausible subjects. With teacher features t, subject mean mu_p, mean of retain identities mu, and k
centroids c drawn from the retain identities farthest from mu_p:

    nu_p = mu + sqrt(k) (mean of the k centroids - mu)
    T(x) = mu_p + alpha Q (nu_p - mu_p) + beta (t(x) - mu_p)

Q projects out the directions in which pictures of one subject differ among themselves (see `views`).
Averaging k independent deviations shrinks them by sqrt(k); the factor puts nu_p back at the distance real identities
have from the mean. What is not identity in a picture lives in t(x) - mu_p and is kept by the share beta.
This is this project's reconstruction of the forget term that arXiv 2512.11325 leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vkdsurgeon.errors import UserError
from vkdsurgeon.objectives.views import ViewDirections


@dataclass(frozen=True)
class Nobody:
    """The target of one forgotten subject at one layer.

    Attributes:
        mean: mu_p, [N, D] or [1, D], float32.
        shift: alpha Q (nu_p - mu_p), the same shape.
    """

    mean: Tensor
    shift: Tensor

    def target(self, teacher: Tensor, beta: float) -> Tensor:
        """T(x) for teacher features [N, D] (or [B, N, D]) of the subject's pictures; float32."""
        return self.mean + self.shift + beta * (teacher.float() - self.mean)


def centroids(features: Sequence[Tensor], subjects: Sequence[str], *, per_token: bool) -> dict[str, Tensor]:
    """Mean features of each subject.

    Args:
        features: One [N, D] per picture.
        subjects: The subject of each picture.
        per_token: Keep the token positions ([N, D], needs one N for all), else average over them ([1, D]).

    Returns:
        Subject -> float32 [N, D] or [1, D], in order of first appearance.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for feature, subject in zip(features, subjects, strict=True):
        value = feature.float() if per_token else feature.float().mean(dim=0, keepdim=True)
        sums[subject] = sums[subject] + value if subject in sums else value.clone()
        counts[subject] = counts.get(subject, 0) + 1
    return {subject: total / counts[subject] for subject, total in sums.items()}


def draw_stand_ins(
    forgotten: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    *,
    count: int,
    far_share: float,
    generator: torch.Generator,
) -> dict[str, tuple[str, ...]]:
    """Draw, for each forgotten subject, the identities that its nobody is mixed from.

    Args:
        forgotten: Subject -> centroid, [N, D] or [1, D].
        kept: Retain or generic identity -> centroid, the same shape.
        count: k, how many are drawn.
        far_share: Share of the identities, farthest from the subject first, that they are drawn from.
        generator: Source of the draw.

    Raises:
        UserError: Fewer kept identities than are to be drawn.
    """
    if len(kept) < count:
        raise UserError(
            "too few retain identities to mix nobody from",
            value=len(kept),
            expected=f"at least {count} subjects (recipe key stand_ins)",
            remedy="give more retain subjects, or a folder of other pictures with --generic",
        )
    names = list(kept)
    stacked = torch.stack([kept[name] for name in names])
    pool = min(len(names), max(round(far_share * len(names)), count))
    drawn = {}
    for subject, mean in forgotten.items():
        distance = (stacked - mean).square().flatten(1).sum(dim=1)
        far = distance.argsort(descending=True, stable=True)[:pool]
        chosen = far[torch.randperm(pool, generator=generator)[:count]]
        drawn[subject] = tuple(names[index] for index in chosen.tolist())
    return drawn


def nobody(
    mean: Tensor, kept: Mapping[str, Tensor], stand_ins: Sequence[str], alpha: float, views: ViewDirections
) -> Nobody:
    """The target of one subject at one layer.

    Args:
        mean: The subject's centroid mu_p, [N, D] or [1, D].
        kept: Retain or generic identity -> centroid at this layer, the same shape.
        stand_ins: The identities to mix.
        alpha: How far the mean is moved; 1 reaches nobody, but for the views.
        views: Directions that are no identity, left out of the move.
    """
    middle = torch.stack(list(kept.values())).mean(dim=0)
    mixed = torch.stack([kept[name] for name in stand_ins]).mean(dim=0)
    return Nobody(mean, alpha * views.remove(middle + len(stand_ins) ** 0.5 * (mixed - middle) - mean))
