"""Targets made from the identities of kept subjects: nobody, or somebody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.targets import identity_shift
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext
from vkdsurgeon.vision_pass.targets.moves import move_far_enough

_Draw = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, tuple[str, ...]]]


def nobody(context: TargetContext) -> ForgetTargets:
    """Someone far away who does not exist.

        T(x) = t(x) + S(nu_p - mu) - S(mu_p - mu)

    with nu_p mixed from `stand_ins` identities (`identity_shift`). This project's reconstruction of the forget
    term that visual knowledge distillation leaves open (arXiv 2512.11325).
    """
    recipe = context.recipe

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return identity_shift.draw_stand_ins(
            means, identities, count=recipe.stand_ins, far_share=recipe.far_share, generator=context.generator
        )

    return _moved(context, draw)


def common(context: TargetContext) -> ForgetTargets:
    """One nobody for all forgotten subjects, so that what was forgotten can no longer be told apart.

        T(x) = t(x) + S(nu - mu) - S(mu_p - mu)

    with nu mixed from stand-ins that are far from the mean of the forgotten subjects. Where every subject has a nobody
    of its own, the way back is one shift per subject; here it has to separate them first. This project's own.
    """
    recipe = context.recipe

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        middle = {"": torch.stack(list(means.values())).mean(dim=0)}
        drawn = identity_shift.draw_stand_ins(
            middle, identities, count=recipe.stand_ins, far_share=recipe.far_share, generator=context.generator
        )
        return dict.fromkeys(means, drawn[""])

    return _moved(context, draw)


def swap(context: TargetContext) -> ForgetTargets:
    """One real kept identity q for each forgotten subject, drawn from the farthest share.

        T(x) = t(x) + S(mu_q - mu) - S(mu_p - mu)

    Relabelling as somebody else, as in arXiv 2310.02238, carried to features: the forgotten person is read as a real
    other one, so it is for study and not for shipping.
    """

    def draw(means: Mapping[str, Tensor], identities: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        return identity_shift.draw_stand_ins(
            means, identities, count=1, far_share=context.recipe.far_share, generator=context.generator
        )

    return _moved(context, draw)


def _moved(context: TargetContext, draw: _Draw) -> ForgetTargets:
    made = context.empty()
    stand_ins: dict[str, tuple[str, ...]] = {}
    readings = {}
    for layer in context.from_last():
        model = context.identities(layer)
        if not stand_ins:
            stand_ins = draw(
                {name: model.means[name] for name in context.forgotten},
                {name: model.means[name] for name in context.kept},
            )
        moved, readings[layer] = move_far_enough(context, layer, stand_ins)
        for index, value in enumerate(moved):
            made.put(layer, index, value)
    return ForgetTargets(made, stand_ins, readings)
