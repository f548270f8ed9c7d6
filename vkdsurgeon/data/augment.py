"""Altered copies of images: what is learnt on a dozen views of a subject has to hold on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from vkdsurgeon.data.samples import Sample

FREELY = 30_000
"""Copies with a number beyond this one are altered more."""

_LIGHT = (0.85, 1.15)
_SMALLEST_WINDOW, _SMALLEST_WINDOW_FREELY = 0.92, 0.8
_MOST_DEGREES = 25.0


def variants(samples: Sequence[Sample], indices: Sequence[int], count: int, *, after: int = 0) -> list[Sample]:
    """Copies of some images.

    Args:
        samples: The images.
        indices: Which of them.
        count: Copies of each.
        after: Number of the copies that were made before, so that these are others.
    """
    numbers = range(after + 1, after + count + 1)
    return [replace(samples[index], variant=number) for number in numbers for index in indices]


def generator_of(sample: Sample) -> np.random.Generator:
    """Source of the draws that make one altered copy; the same each time."""
    return np.random.default_rng([int(sample.digest[:15], 16), sample.variant])


def varied(image: Image.Image, sample: Sample) -> Image.Image:
    """The image (RGB) as its variant shows it, the same each time.

    A window of 92 to 100 % of each side is scaled back to the image's size, so that the layout of tokens stays, and
    brightness, contrast and colour lie between 85 and 115 %: usual alterations (arXiv 2002.05709, appendix A), much
    milder. Beyond `FREELY` the image is turned by up to 25 degrees first, and the window is at least 80 %.

    Args:
        image: The original, of any mode.
        sample: Whose digest and variant decide.
    """
    generator = generator_of(sample)
    made, smallest = image.convert("RGB"), _SMALLEST_WINDOW
    if sample.variant > FREELY:
        made = _turned(made, float(generator.uniform(-_MOST_DEGREES, _MOST_DEGREES)))
        smallest = _SMALLEST_WINDOW_FREELY
    scale = generator.uniform(smallest, 1.0)
    sides = [max(1, round(scale * side)) for side in made.size]
    left, top = (int(generator.integers(0, whole - side + 1)) for whole, side in zip(made.size, sides, strict=True))
    made = made.crop((left, top, left + sides[0], top + sides[1])).resize(image.size, Image.Resampling.BICUBIC)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        made = enhance(made).enhance(float(generator.uniform(*_LIGHT)))
    return made


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    """Turned around its centre, of the same size; where it does not reach, its edge goes on."""
    width, height = image.size
    along, across = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    right = max(math.ceil((width * along + height * across - width) / 2), 0) + 2
    below = max(math.ceil((height * along + width * across - height) / 2), 0) + 2
    padded = np.pad(np.asarray(image), ((below, below), (right, right), (0, 0)), mode="edge")
    turned = Image.fromarray(padded).rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((right, below, right + width, below + height))
