"""Targets that the teacher sees on other pictures: T(x) = t(g(x)) with g a blank, a blur or noise."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.objectives.forget.context import ForgetTargets, TargetContext

_GREY = (128, 128, 128)


def blank(context: TargetContext) -> ForgetTargets:
    """T(x) = t(a grey picture of the same size): nothing is to be seen, the rest of the picture included.

    A baseline of this project.
    """
    return ForgetTargets(context.altered(blanked))


def blur(context: TargetContext) -> ForgetTargets:
    """T(x) = t(x * G), G a Gaussian whose standard deviation is `blur` times the picture's shorter side.

    Blurring is how faces are hidden in data sets (arXiv 2103.06191, section 4); a baseline of this project.
    """
    return ForgetTargets(context.altered(partial(blurred, share=context.recipe.blur)))


def noise(context: TargetContext) -> ForgetTargets:
    """T(x) = t(x + noise * 255 * e), e standard normal per pixel and channel, clipped to 0..255.

    The noise is drawn from the picture's digest, so it depends neither on order nor on the seed. A baseline of this
    project.
    """
    return ForgetTargets(context.altered(partial(noised, deviation=context.recipe.noise)))


def blanked(image: Image.Image, picture: Picture) -> Image.Image:
    """A grey RGB picture of the same size."""
    return Image.new("RGB", image.size, _GREY)


def blurred(image: Image.Image, picture: Picture, *, share: float) -> Image.Image:
    """The picture after a Gaussian blur of `share` times its shorter side."""
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def noised(image: Image.Image, picture: Picture, *, deviation: float) -> Image.Image:
    """The picture with normal noise of `deviation` (white is 1) in every channel, the same each time."""
    generator = torch.Generator().manual_seed(int(picture.digest[:15], 16))
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).float()
    pixels += 255 * deviation * torch.randn(pixels.shape, generator=generator)
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).numpy())
