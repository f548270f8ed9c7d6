"""Targets that are no place among the identities: a random direction, or only away."""

from __future__ import annotations

import torch
from torch import Tensor

from vkdsurgeon.objectives.distances import repulsion
from vkdsurgeon.objectives.forget.context import ForgetTargets, TargetContext

# Relative to the features: a kick large enough for float32, too small to be a target of its own.
_KICK = 0.05


def rmu(context: TargetContext) -> ForgetTargets:
    """Representation misdirection for unlearning: one random direction for every token of every forget picture.

        T(x)_n = c mean|t| u,    u = v / |v|,  v_d ~ U[0, 1)

    RMU of arXiv 2403.03218, whose fixed coefficient is made relative to the mean length of a token's features as in
    Adaptive RMU (arXiv 2408.06223); c is the recipe key `steering`.
    """
    made = context.empty()
    for layer in context.from_last():
        own = context.forget.all(layer)
        length = torch.stack([value.float().norm(dim=-1).mean() for value in own]).mean()
        direction = torch.rand(own[0].shape[-1], generator=context.generator)
        target = context.recipe.steering * length * direction / direction.norm()
        for index, value in enumerate(own):
            made.put(layer, index, target.expand(value.shape).contiguous())
    return ForgetTargets(made)


def repel(context: TargetContext) -> ForgetTargets:
    """Anything but the teacher's features: no target, a hinge on the cosine to them.

        loss(x) = mean over tokens of max(0, cos(h(x), t(x) + e) - margin)

    The plain opposite of distillation. At h = t the cosine has its maximum and no gradient, so a small fixed random
    kick e, 5 % of the features' rms, stands in for a first step. The margin is the recipe key `repel_margin`; the key
    `distance` has no say.
    """
    made = context.empty()
    for layer in context.from_last():
        for index, value in enumerate(context.forget.all(layer)):
            made.put(layer, index, _kicked(value, context.generator))
    return ForgetTargets(made, loss=repulsion(context.recipe.repel_margin))


def _kicked(features: Tensor, generator: torch.Generator) -> Tensor:
    value = features.float()
    return value + _KICK * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)
