"""Forget targets: what the student is to see instead.

*Nobody*: for each forgotten subject p a point in feature space that is nobody, far from the subject and still on the
manifold of plausible subjects. With mu the mean of the kept identities and k centroids c drawn from those farthest from
the subject's own mean mu_p:

    nu_p = mu + sqrt(k) (mean of the k centroids - mu), and mu itself without any
    T(x) = t(x) + S(nu_p - mu) - S(mu_p - mu)

S keeps the identity part of a mean and leaves the accident of its views where it is (`identity_classifier`).
Averaging k independent deviations shrinks them by sqrt(k); the factor puts nu_p back at the distance real identities
have from the mean. What is not identity in an image lives in t(x) and stays. Without stand-ins (k = 0) that is all that
is left, so that whom an image is taken for depends on the image, as with people whom the model never saw.
This is this project's reconstruction of the forget term that arXiv 2512.11325 leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vkdsurgeon.errors import UserError
from vkdsurgeon.vision_pass.identity_classifier import IdentityModel


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
        count: k, how many are drawn; may be 0.
        far_share: Share of the identities, farthest from the subject first, that they are drawn from.
        generator: Source of the draw.

    Raises:
        UserError: Fewer kept identities than are to be drawn, or none at all.
    """
    if len(kept) < max(count, 1):
        raise UserError(
            "too few retain identities to mix nobody from",
            value=len(kept),
            expected=f"at least {max(count, 1)} subjects (recipe key stand_ins)",
            remedy="give more retain subjects, or a folder of other images with `generic`",
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


def shifts(
    model: IdentityModel,
    kept: Sequence[str],
    stand_ins: Mapping[str, Sequence[str]],
    *,
    trust: float = 1.0,
    stretch: float = 1.0,
) -> dict[str, Tensor]:
    """What is added to every image of each forgotten subject at one layer.

    Args:
        model: Identities of the forgotten and the kept subjects at the layer.
        kept: The subjects of it that are kept.
        stand_ins: Forgotten subject -> the kept identities to mix; may be none.
        trust: Shrink as if every mean were one of so many times more images; infinity does not shrink.
        stretch: Go so many times the way.

    Returns:
        Forgotten subject -> float32 [N, D] or [1, D].
    """
    middle = mean_of(model, kept)
    names = list(stand_ins)
    moves, views = [], []
    for name in names:
        mixed, count = mixture(model, middle, stand_ins[name])
        moves += [mixed, model.means[name] - middle]
        views += [count, model.counts[name]]
    parts = model.identity(torch.stack(moves), [trust * count for count in views])
    return dict(zip(names, stretch * (parts[0::2] - parts[1::2]), strict=True))


def mean_of(model: IdentityModel, kept: Sequence[str]) -> Tensor:
    """mu, the mean of the kept identities, [N, D] or [1, D]."""
    return torch.stack([model.means[name] for name in kept]).mean(dim=0)


def mixture(model: IdentityModel, middle: Tensor, others: Sequence[str]) -> tuple[Tensor, float]:
    """What a mixture of identities is away from their mean, nu - mu, and of how many images it is a mean.

    Args:
        model: Identities at the layer.
        middle: From `mean_of`.
        others: The identities to mix; without any it is nothing.
    """
    if not others:
        return torch.zeros_like(middle), 1.0
    away = len(others) ** 0.5 * (mean_of(model, others) - middle)
    return away, len(others) / sum(1 / model.counts[other] for other in others)
