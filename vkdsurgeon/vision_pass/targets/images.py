"""The target that the teacher sees on a blank image."""

from __future__ import annotations

from PIL import Image

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext

_GREY = (128, 128, 128)


def blank(context: TargetContext) -> ForgetTargets:
    """T(x) = t(a grey image of the same size): nothing is to be seen, the rest of the image included.

    A baseline of this project.
    """
    return ForgetTargets(context.altered(blanked))


def blanked(image: Image.Image, picture: Picture) -> Image.Image:
    """A grey RGB image of the same size."""
    return Image.new("RGB", image.size, _GREY)
