"""Image perturbations: noise, blur, crop, occlusion, flips, brightness, contrast."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from vkdsurgeon.errors import UserError

Change = Callable[[Image.Image, float, np.random.Generator], Image.Image]
_GREY = (128, 128, 128)
_WRITTEN = re.compile(r"([a-z]+)(?:=(\d{1,4}))?")


def noise(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Normal noise of standard deviation `share` (white is 1) per pixel and channel, clipped."""
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels + 255.0 * share * generator.standard_normal(pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def blur(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """A Gaussian whose standard deviation is `share` of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def crop(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """A window of `share` of each side at a random place, resized back, so that the layout of tokens stays."""
    sides = [max(1, round(share * side)) for side in image.size]
    left, top = (int(generator.integers(0, whole - side + 1)) for whole, side in zip(image.size, sides, strict=True))
    window = image.crop((left, top, left + sides[0], top + sides[1]))
    return window.resize(image.size, Image.Resampling.BICUBIC)


def occlusion(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """A grey rectangle over `share` of the area, of the image's proportions, at a random place."""
    sides = [min(whole, max(1, round(share**0.5 * whole))) for whole in image.size]
    left, top = (int(generator.integers(0, whole - side + 1)) for whole, side in zip(image.size, sides, strict=True))
    covered = image.copy()
    ImageDraw.Draw(covered).rectangle((left, top, left + sides[0] - 1, top + sides[1] - 1), _GREY)
    return covered


def hflip(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """The image mirrored left to right."""
    return ImageOps.mirror(image)


def vflip(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """The image mirrored top to bottom."""
    return ImageOps.flip(image)


def brightness(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Every channel times `share`, clipped."""
    return ImageEnhance.Brightness(image).enhance(share)


def contrast(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Distance from the image's mean grey times `share`, clipped."""
    return ImageEnhance.Contrast(image).enhance(share)


# Kind -> what it does, and the percentages tried unless told otherwise (None: it has no strength).
CHANGES: dict[str, tuple[Change, tuple[int, ...] | None]] = {
    "noise": (noise, (5, 15)),
    "blur": (blur, (2, 4)),
    "crop": (crop, (90, 75)),
    "occlusion": (occlusion, (5, 15)),
    "hflip": (hflip, None),
    "vflip": (vflip, None),
    "brightness": (brightness, (60, 150)),
    "contrast": (contrast, (60, 150)),
}


@dataclass(frozen=True)
class Perturbation:
    """One change at one strength.

    Attributes:
        kind: A key of `CHANGES`.
        percent: Its strength; None where it has none.
        seed: Seed of the random choices, together with the image's pixels: the same image always gets the same.
    """

    kind: str
    percent: int | None
    seed: int = 0

    @property
    def name(self) -> str:
        """The name in metric ids, such as `noise-5`."""
        return self.kind if self.percent is None else f"{self.kind}-{self.percent}"

    def __call__(self, image: Image.Image, path: Path | None = None) -> Image.Image:
        """The image (RGB) changed; a new one of the same size.

        Raises:
            UserError: It is a clip of sound.
        """
        if not isinstance(image, Image.Image):
            raise UserError("this attack changes images alone, and the record is about a clip", where=path)
        digest = hashlib.sha256(f"{self.name} {self.seed} {image.size}".encode() + image.tobytes()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return CHANGES[self.kind][0](image, (self.percent or 0) / 100, generator)


def perturbations_of(texts: Sequence[str], seed: int) -> list[Perturbation]:
    """The perturbations behind `perturbations`, each KIND[=PERCENT]; none means all kinds at their usual strengths.

    Raises:
        UserError: One is not known, has a wrong strength, or stands there twice.
    """
    found: list[Perturbation] = []
    for text in texts or CHANGES:
        match = _WRITTEN.fullmatch(text.strip())
        kind, written = (match[1], match[2]) if match else ("", None)
        usual = CHANGES[kind][1] if kind in CHANGES else None
        bounded = kind in ("crop", "occlusion")
        if (
            kind not in CHANGES
            or (written is not None and usual is None)
            or (written is not None and kind not in ("brightness", "contrast") and int(written) == 0)
            or (written is not None and bounded and int(written) > 100)
        ):
            raise UserError(
                "not a perturbation",
                where="`perturbations`",
                value=text,
                expected="KIND or KIND=PERCENT: " + ", ".join(CHANGES) + "; flips have no strength, crop and occlusion "
                "go up to 100",
                remedy="for example noise=10 and hflip",
            )
        strengths: tuple[int | None, ...] = (int(written),) if written is not None else usual or (None,)
        found += [Perturbation(kind, strength, seed) for strength in strengths]
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError("the same perturbation was given twice", where="`perturbations`", value=twice)
    return found
