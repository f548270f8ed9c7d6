"""A target that is no place among the identities: a random direction."""

from __future__ import annotations

import torch

from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext


def rmu(context: TargetContext) -> ForgetTargets:
    """Representation misdirection for unlearning: one random direction for every token of every forget image.

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
