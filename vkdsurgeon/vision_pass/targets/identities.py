"""Targets made from the identities of kept subjects: nobody, or somebody else."""

from __future__ import annotations

import torch

from vkdsurgeon.vision_pass.identity_classifier import IdentityModel
from vkdsurgeon.vision_pass.targets import identity_shift
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext
from vkdsurgeon.vision_pass.targets.moves import move_far_enough


def nobody(context: TargetContext) -> ForgetTargets:
    """Someone far away who does not exist.

        T(x) = t(x) + S(nu_p - mu) - S(mu_p - mu)

    with nu_p mixed from `stand_ins` identities (`identity_shift`). This project's reconstruction of the forget
    term that visual knowledge distillation leaves open (arXiv 2512.11325).
    """
    return _moved(context, context.recipe.stand_ins)


def common(context: TargetContext) -> ForgetTargets:
    """One nobody for all forgotten subjects, so that what was forgotten can no longer be told apart.

        T(x) = t(x) + S(nu - mu) - S(mu_p - mu)

    with nu mixed from stand-ins that are far from the mean of the forgotten subjects. Where every subject has a nobody
    of its own, the way back is one shift per subject; here it has to separate them first. This project's own.
    """
    return _moved(context, context.recipe.stand_ins, together=True)


def swap(context: TargetContext) -> ForgetTargets:
    """One real kept identity q for each forgotten subject, drawn from the farthest share.

        T(x) = t(x) + S(mu_q - mu) - S(mu_p - mu)

    Relabelling as somebody else, as in arXiv 2310.02238, carried to features: the forgotten person is read as a real
    other one, so it is for study and not for shipping.
    """
    return _moved(context, 1)


def nearest(context: TargetContext) -> ForgetTargets:
    """For each image the kept identities that it would be taken for, were its subject unknown (`nearest_kept`)."""
    return _moved(context, 0, nearest=max(context.recipe.stand_ins, 1))


def _moved(context: TargetContext, count: int, *, together: bool = False, nearest: int = 0) -> ForgetTargets:
    made = context.empty()
    stand_ins: dict[str, tuple[str, ...]] = {}
    readings = {}
    for layer in context.from_last():
        model = context.identities(layer)
        stand_ins = stand_ins or _drawn(context, model, count, together)
        moves, readings[layer] = move_far_enough(context, layer, stand_ins, nearest)
        for index in range(len(context.forget_subjects)):
            made.put(layer, index, moves.image(index))
    return ForgetTargets(made, stand_ins, readings)


def _drawn(context: TargetContext, model: IdentityModel, count: int, together: bool) -> dict[str, tuple[str, ...]]:
    forgotten = {name: model.means[name] for name in context.forgotten}
    drawn = identity_shift.draw_stand_ins(
        {"": torch.stack(list(forgotten.values())).mean(dim=0)} if together else forgotten,
        {name: model.means[name] for name in context.kept},
        count=count,
        far_share=context.recipe.far_share,
        generator=context.generator,
    )
    return dict.fromkeys(forgotten, drawn[""]) if together else drawn
