"""Targets made from the identities of kept subjects: nobody, somebody else, everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vkdsurgeon.objectives import targets
from vkdsurgeon.objectives.forget.context import ForgetTargets, TargetContext
from vkdsurgeon.objectives.views import ViewDirections

_Draw = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, tuple[str, ...]]]


def nobody(context: TargetContext) -> ForgetTargets:
    """Someone far away who does not exist.

        T(x) = mu_p + alpha Q (nu_p - mu_p) + beta (t(x) - mu_p)

    with nu_p mixed from `stand_ins` identities (`objectives.targets`). This project's reconstruction of the forget
    term that visual knowledge distillation leaves open (arXiv 2512.11325).
    """
    recipe = context.recipe

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return targets.draw_stand_ins(
            means, identities, count=recipe.stand_ins, far_share=recipe.far_share, generator=context.generator
        )

    return _moved(context, draw, recipe.alpha)


def common(context: TargetContext) -> ForgetTargets:
    """One nobody for all forgotten subjects, so that what was forgotten can no longer be told apart.

        T(x) = mu_p + Q (nu - mu_p) + beta (t(x) - mu_p)

    with nu mixed from stand-ins that are far from the mean of the forgotten subjects; alpha is 1, which leaves nothing
    of mu_p but its views. Where every subject has a nobody of its own, the way back is one shift per subject; here it
    has to separate them first. At several `layers`, they are merged that deep. This project's own.
    """
    recipe = context.recipe

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        middle = {"": torch.stack(list(means.values())).mean(dim=0)}
        drawn = targets.draw_stand_ins(
            middle, identities, count=recipe.stand_ins, far_share=recipe.far_share, generator=context.generator
        )
        return dict.fromkeys(means, drawn[""])

    return _moved(context, draw, 1.0)


def swap(context: TargetContext) -> ForgetTargets:
    """One real kept identity q for each forgotten subject, drawn from the farthest share.

        T(x) = mu_p + Q (mu_q - mu_p) + beta (t(x) - mu_p)

    Relabelling as somebody else, as in arXiv 2310.02238, carried to features: the forgotten person is read as a real
    other one, so it is for study and not for shipping.
    """

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return targets.draw_stand_ins(
            means, identities, count=1, far_share=context.recipe.far_share, generator=context.generator
        )

    return _moved(context, draw, 1.0)


def farthest(context: TargetContext) -> ForgetTargets:
    """As `swap`, with the one kept identity whose centroid is farthest from mu_p; nothing is drawn.

    The opposite of a nearest-neighbour target, which does not erase (docs/method.md).
    """

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        far = {
            subject: max(identities, key=lambda name: float((identities[name] - mean).square().sum()))
            for subject, mean in means.items()
        }
        return {subject: (name,) for subject, name in far.items()}

    return _moved(context, draw, 1.0)


def mean(context: TargetContext) -> ForgetTargets:
    """T(x) = mu, the mean over kept identities, for every forget picture: the average of everybody.

    The feature-space form of teaching the uninformative output (arXiv 2205.08096); it takes general vision with it.
    """
    made = context.empty()
    for layer in context.recipe.layers:
        _, identities = context.identities(layer)
        middle = torch.stack(list(identities.values())).mean(dim=0)
        for index, value in enumerate(context.forget.all(layer)):
            made.put(layer, index, middle.expand(value.shape).contiguous())
    return ForgetTargets(made)


def _moved(context: TargetContext, draw: _Draw, alpha: float) -> ForgetTargets:
    recipe, made = context.recipe, context.empty()
    stand_ins: dict[str, tuple[str, ...]] = {}
    for layer in context.from_last():
        means, identities = context.identities(layer)
        stand_ins = stand_ins or draw(means, identities)
        views = ViewDirections(*context.kept(layer), identities, recipe.view_share)
        moves = {name: targets.nobody(mean, identities, stand_ins[name], alpha, views) for name, mean in means.items()}
        for index, (subject, value) in enumerate(zip(context.forget_subjects, context.forget.all(layer), strict=True)):
            made.put(layer, index, moves[subject].target(value, recipe.beta))
    return ForgetTargets(made, stand_ins)
