"""All teachers of a run, looked at before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.teacher import Teacher, visual_digest
from vkdsurgeon.vision_pass.teacher_quality import (
    TeacherQuality,
    choose_samples,
    examine,
    gap_warnings,
    kind_warnings,
    operation_warnings,
    quality_warnings,
)

_COMPARED = 4


def examine_teachers(
    stack: VisualStack, forget: SampleSet, keep: SampleSet, recipe: Recipe, others: Mapping[str, Teacher | None]
) -> tuple[TeacherQuality, list[str], dict[str, str]]:
    """Measure the given model as a teacher, and check the models that teach in its place.

    Args:
        stack: The given model.
        forget: Images to forget.
        keep: Retain and generic images.
        recipe: The settings.
        others: The teacher of `forget` and of `retain`, where another one was given.

    Returns:
        The given model's quality, doubts about all teachers as warnings, and digests of the others by what they teach.

    Raises:
        UserError: A teacher cannot be loaded, has features that are not finite, or of another shape.
    """
    budget = int(recipe.cache_gib * (1 << 30)) // 2
    first = choose_samples(forget.samples)
    chosen = [*first, *choose_samples(keep.samples)]
    quality = examine(stack, chosen, recipe.micro_batch, budget, forgotten=len(first))
    found = [
        *operation_warnings(stack.inventory, stack.split.modality, "this checkpoint"),
        *quality_warnings(quality, "the checkpoint's features"),
    ]
    found += kind_warnings(quality)
    digests = {}
    for role, samples, layers in (
        ("forget", forget.samples, recipe.layers),
        ("retain", keep.samples, {**recipe.layers, **recipe.retention_layers}),
    ):
        teacher = others.get(role)
        if teacher is None:
            continue
        other = teacher.load()
        gap = teacher.compare(other, stack, choose_samples(samples)[:_COMPARED], sorted(layers, key=stack.layers.index))
        digests[role] = visual_digest(other)
        found += gap_warnings(gap, teacher.option)
        found += operation_warnings(other.inventory, other.split.modality, f"the checkpoint of {teacher.option}")
        # A reference that cannot tell the forget images' subjects apart is what one would wish for.
        if role == "retain":
            judged = examine(other, choose_samples(samples), recipe.micro_batch, budget)
            found += quality_warnings(judged, f"the features of {teacher.option}")
    return quality, found, digests
