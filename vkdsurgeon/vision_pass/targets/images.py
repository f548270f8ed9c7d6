"""The target that the teacher sees on a blank image, or hears in silence."""

from __future__ import annotations

from typing import Any

from vkdsurgeon.data.media import medium_of
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext


def blank(context: TargetContext) -> ForgetTargets:
    """T(x) = t(a grey image of the same size): nothing is to be seen, the rest of the image included.

    A baseline of this project.
    """
    return ForgetTargets(context.altered(blanked))


def blanked(content: Any, sample: Sample) -> Any:
    """A grey RGB image of the same size, or as much silence."""
    return medium_of(sample.path).blank(content)
