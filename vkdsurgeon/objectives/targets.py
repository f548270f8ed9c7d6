"""Forget targets: what the student is to see instead.

*Nobody*: for each forgotten subject a point in feature space that is nobody, far from the subject and still on the
manifold of plausible subjects. With teacher features t, subject mean mu_p, mean of retain identities mu, and k
centroids c drawn from the retain identities farthest from mu_p:

    nu_p = mu + sqrt(k) (mean of the k centroids - mu)
    T(x) = mu_p + alpha (nu_p - mu_p) + beta (t(x) - mu_p)

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


@dataclass(frozen=True)
class Nobody:
    """The target of one forgotten subject at one layer.

    Attributes:
        mean: mu_p, [N, D] or [1, D], float32.
        shift: alpha (nu_p - mu_p), the same shape.
        stand_ins: The retain identities that nobody was mixed from.
    """

    mean: Tensor
    shift: Tensor
    stand_ins: tuple[str, ...]

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


def nobody_targets(
    forgotten: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    *,
    alpha: float,
    stand_ins: int,
    far_share: float,
    generator: torch.Generator,
) -> dict[str, Nobody]:
    """Draw nobody for each forgotten subject.

    Args:
        forgotten: Subject -> centroid, [N, D] or [1, D].
        kept: Retain or generic identity -> centroid, the same shape.
        alpha: How far the mean is moved; 1 reaches nobody.
        stand_ins: k, how many far identities are mixed.
        far_share: Share of the identities that counts as far.
        generator: Source of the draw.

    Raises:
        UserError: Fewer kept identities than are to be mixed.
    """
    if len(kept) < stand_ins:
        raise UserError(
            "too few retain identities to mix nobody from",
            value=len(kept),
            expected=f"at least {stand_ins} subjects (recipe key stand_ins)",
            remedy="give more retain subjects, or a folder of other pictures with --generic",
        )
    names = list(kept)
    stacked = torch.stack([kept[name] for name in names])
    middle = stacked.mean(dim=0)
    # At least a handful, or small retain sets would give every subject the same nobody.
    pool = min(len(names), max(round(far_share * len(names)), stand_ins))
    targets = {}
    for subject, mean in forgotten.items():
        distance = (stacked - mean).square().flatten(1).sum(dim=1)
        far = distance.argsort(descending=True, stable=True)[:pool]
        drawn = far[torch.randperm(pool, generator=generator)[:stand_ins]]
        nobody = middle + stand_ins**0.5 * (stacked[drawn].mean(dim=0) - middle)
        targets[subject] = Nobody(mean, alpha * (nobody - mean), tuple(names[index] for index in drawn.tolist()))
    return targets
