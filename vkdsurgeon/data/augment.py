"""Altered copies of images: what is learnt on a dozen views of a subject has to hold on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from vkdsurgeon.data.samples import Sample

_SMALLEST_WINDOW, _LIGHT = 0.92, (0.85, 1.15)


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
    milder. Stronger ones (mirrored, turned by 10 degrees, windows from 80 %) were tried and could not be learnt.

    Args:
        image: The original, of any mode.
        sample: Whose digest and variant decide.
    """
    generator = generator_of(sample)
    made = image.convert("RGB")
    scale = generator.uniform(_SMALLEST_WINDOW, 1.0)
    sides = [max(1, round(scale * side)) for side in made.size]
    left, top = (int(generator.integers(0, whole - side + 1)) for whole, side in zip(made.size, sides, strict=True))
    made = made.crop((left, top, left + sides[0], top + sides[1])).resize(image.size, Image.Resampling.BICUBIC)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        made = enhance(made).enhance(float(generator.uniform(*_LIGHT)))
    return made
