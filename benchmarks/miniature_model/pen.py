"""What every drawing style draws with: straight polygons at four times the size, brought down to 48 pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.miniature_model.look import View

SIDE = 48
UP = 4

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Pen:
    """Polygons in head coordinates (pixels of the small image, origin at the middle of the face)."""

    def __init__(self, canvas: ImageDraw.ImageDraw, centre: Point, scale: float, tilt: float) -> None:
        angle = math.radians(tilt)
        self._canvas = canvas
        self._centre = centre
        self._cos = math.cos(angle) * scale
        self._sin = math.sin(angle) * scale
        self._scale = scale

    def _place(self, point: Point) -> Point:
        x, y = point
        return (
            (self._centre[0] + x * self._cos - y * self._sin) * UP,
            (self._centre[1] + x * self._sin + y * self._cos) * UP,
        )

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self._canvas.polygon([self._place(point) for point in points], fill=fill)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        self._canvas.line(
            [self._place(point) for point in points],
            fill=fill,
            width=max(round(width * UP * self._scale), 1),
            joint="curve",
        )

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, start: float = 0.0, end: float = 360.0
    ) -> None:
        self.polygon(arc(x, y, rx, ry, start, end), fill)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points of an elliptic arc, degrees clockwise from the right (180 to 360 is the upper half)."""
    steps = max(int(abs(end - start) / 12), 2)
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (factor below 1) or brighter colour."""
    red, green, blue = (min(max(round(channel * factor), 0), 255) for channel in colour)
    return red, green, blue


def light(image: Image.Image, view: View) -> Image.Image:
    """Brighten or darken an image as its view says, one side more than the other."""
    ramp = view.light * (1.0 + 0.12 * view.light_from * np.linspace(-1.0, 1.0, SIDE))
    pixels = np.asarray(image, dtype=np.float64) * ramp[None, :, None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
