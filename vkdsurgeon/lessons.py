"""From teachers to lessons: whose features the student is to show on which pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from vkdsurgeon.data.variants import variants
from vkdsurgeon.features import FeatureStore, PictureSet, TeacherPass, spread, teacher_features
from vkdsurgeon.objectives.distances import feature_loss
from vkdsurgeon.objectives.forget import FORGET_TARGETS, ForgetTargets, TargetContext
from vkdsurgeon.recipe import Recipe
from vkdsurgeon.stop import split_validation
from vkdsurgeon.teacher import Teacher
from vkdsurgeon.unlearn import Lesson
from vkdsurgeon.visual import VisualStack


def make_lessons(
    stack: VisualStack,
    forget: PictureSet,
    keep: PictureSet,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    forget_teacher: Teacher | None = None,
    retain_teacher: Teacher | None = None,
    look: TeacherPass = teacher_features,
) -> tuple[list[Lesson], ForgetTargets]:
    """Run the teachers and make the forget and the retain lesson.

    Args:
        stack: Tower and projector as the checkpoint has them; the teacher of whatever no other teacher is given for.
        forget: Pictures to forget.
        keep: Retain and generic pictures.
        recipe: The settings, fitted.
        generator: Source of the draws that targets make.
        forget_teacher: The reference model, for forget target `reference`.
        retain_teacher: Teacher of the kept pictures, and the space that identities are taken from.
        look: Runs the own teacher over a set; one that remembers saves the passes of later runs on the same weights.

    Returns:
        The forget and the retain lesson, and what the forget targets are.

    Raises:
        UserError: The sets do not suffice for the forget target, or a teacher cannot be loaded.
    """
    budget = int(recipe.cache_gib * (1 << 30)) // 2
    parts = [split_validation(pictures.subjects, recipe.validation_share) for pictures in (forget, keep)]
    originals = (len(forget), len(keep))
    forget, keep = (
        _with_copies(stack, pictures, trained, recipe, batch, budget)
        for pictures, (trained, _), batch in zip(
            (forget, keep), parts, (recipe.forget_batch, recipe.retain_batch), strict=True
        )
    )
    layers = tuple(recipe.layers)
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    own = look(stack, forget, layers, recipe.micro_batch, budget)
    if retain_teacher is None:
        kept = look(stack, keep, watched, recipe.micro_batch, budget)
    else:
        kept = retain_teacher.features(keep.pictures, watched, recipe.micro_batch, budget)
    targets = FORGET_TARGETS[recipe.forget_target](
        TargetContext(
            recipe=recipe,
            forget=own,
            keep=kept,
            forget_subjects=forget.subjects,
            keep_subjects=keep.subjects,
            originals=originals,
            generator=generator,
            altered=lambda alter: teacher_features(
                stack, PictureSet(stack, forget.pictures, 0, alter=alter), layers, recipe.micro_batch, budget
            ),
            reference=None
            if forget_teacher is None
            else partial(forget_teacher.features, forget.pictures, layers, recipe.micro_batch, budget),
            empty=partial(FeatureStore, budget),
        )
    )
    lessons = []
    for name, pictures, own_pictures, (trained, held_out), store, places, loss, weight, batch in (
        (
            "forget",
            forget,
            originals[0],
            parts[0],
            targets.features,
            recipe.layers,
            targets.loss or feature_loss({recipe.distance: 1.0}),
            1.0,
            recipe.forget_batch,
        ),
        (
            "retain",
            keep,
            originals[1],
            parts[1],
            kept,
            recipe.retention_layers,
            feature_loss(recipe.retention_distance),
            recipe.retain_weight,
            recipe.retain_batch,
        ),
    ):
        train_on = [*trained, *range(own_pictures, len(pictures))]
        told_apart = layers if name == "retain" else ()
        spreads = {layer: spread(store.all(layer)[:own_pictures]) for layer in told_apart}
        lessons.append(
            Lesson(name, pictures, store, places, loss, train_on, held_out or train_on, weight, batch, spreads)
        )
    return lessons, targets


def _with_copies(
    stack: VisualStack, pictures: PictureSet, trained: Sequence[int], recipe: Recipe, batch: int, budget: int
) -> PictureSet:
    # No more than the steps can draw: each copy costs the teacher a pass.
    affordable = batch * recipe.planned_steps // max(len(trained), 1) - 1
    count = min(recipe.copies, max(affordable, 0))
    if count == 0:
        return pictures
    return PictureSet(stack, [*pictures.pictures, *variants(pictures.pictures, trained, count)], budget)


def unknown_layers(recipe: Recipe, known: Sequence[str]) -> list[tuple[str, str]]:
    """(recipe key, layer) of every layer that the tower does not have."""
    named = {"layers": recipe.layers, "retain_layers": recipe.retain_layers or {}}
    return [(key, layer) for key, layers in named.items() for layer in layers if layer not in known]
