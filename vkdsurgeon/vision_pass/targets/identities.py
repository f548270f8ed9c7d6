"""Targets made from the identities of kept subjects: nobody, somebody else, everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.target_readings import TargetReading, most_by_chance, own_readings
from vkdsurgeon.vision_pass.targets import identity_shift
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext

_Draw = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, tuple[str, ...]]]

# (trust, stretch), tried in turn until a target no longer reads as its own subject: first less is held to be the
# accident of views, then the way is longer.
_WAYS = ((1.0, 1.0), (4.0, 1.0), (16.0, 1.0), (inf, 1.0), (inf, 1.5), (inf, 2.0))


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

    return _moved(context, draw)


def mean(context: TargetContext) -> ForgetTargets:
    """T(x) = mu, the mean over kept identities, for every forget image: the average of everybody.

    The feature-space form of teaching the uninformative output (arXiv 2205.08096); it takes general vision with it.
    """
    made = context.empty()
    for layer in context.recipe.layers:
        model = context.identities(layer)
        middle = torch.stack([model.means[name] for name in context.kept]).mean(dim=0)
        for index, value in enumerate(context.forget.all(layer)):
            made.put(layer, index, middle.expand(value.shape).contiguous())
    return ForgetTargets(made)


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
        moves, readings[layer] = _far_enough(context, layer, stand_ins)
        for index, (subject, value) in enumerate(zip(context.forget_subjects, context.forget.all(layer), strict=True)):
            made.put(layer, index, value.float() + moves[subject])
    return ForgetTargets(made, stand_ins, readings)


def _far_enough(
    context: TargetContext, layer: str, stand_ins: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], TargetReading]:
    """Shifts by which no subject reads as itself any more, as far as the ways in `_WAYS` get there."""
    reader, model = context.reader(layer), context.identities(layer)
    everything = context.forget.all(layer)
    images: dict[str, list[Tensor]] = {name: [] for name in context.forgotten}
    for index in context.forget_known:
        images[context.forget_subjects[index]].append(everything[index])
    moves: dict[str, Tensor] = {}
    own: dict[str, int] = {}
    left = context.forgotten
    ways: list[tuple[float, float]] = []
    for trust, stretch in _WAYS:
        ways.append((trust, stretch))
        moved = identity_shift.shifts(
            model, context.kept, {name: stand_ins[name] for name in left}, trust=trust, stretch=stretch
        )
        moves |= moved
        for name in left:
            shifted = [value.float() + moved[name] for value in images[name]]
            own[name] = int(own_readings(reader, shifted, [name] * len(shifted)).sum())
        left = [name for name in left if own[name] > most_by_chance(len(images[name]), reader.chance)]
        if not left:
            break
    original = sum(int(own_readings(reader, images[name], [name] * len(images[name])).sum()) for name in images)
    trust, stretch = ways[-1]
    reading = TargetReading(
        images=len(context.forget_known),
        own=sum(own.values()),
        original=original,
        subjects=len(reader.subjects),
        still=len(left),
        trust=trust,
        stretch=stretch,
    )
    return moves, reading
