"""Invented emblems, drawn by code: what belongs to one (constant) and how an image shows it (varies)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.real.shapes import CHARGES, PLATES, Point

SIDE, _UP = 112, 3

Colour = tuple[int, int, int]

# Of plates and of what is on them.
_PAINTS: tuple[Colour, ...] = (
    (196, 38, 46), (240, 150, 20), (250, 220, 70), (30, 130, 70), (40, 90, 190),
    (120, 50, 150), (245, 245, 240), (30, 30, 38), (20, 160, 170), (230, 120, 170),
)  # fmt: skip
_BACKGROUNDS: dict[str, Colour] = {
    "red": (205, 60, 55), "orange": (240, 150, 60), "yellow": (245, 225, 90), "green": (80, 170, 80),
    "blue": (75, 125, 215), "purple": (150, 90, 185), "white": (245, 245, 245), "black": (28, 28, 32),
}  # fmt: skip
BACKGROUNDS = tuple(_BACKGROUNDS)
_DIVISIONS = 6
_BEADS = 4


@dataclass(frozen=True)
class Emblem:
    """One emblem: indices that never change.

    Attributes:
        plate: Outline, of `PLATES`.
        field: Paint of the plate.
        division: How the plate is divided: 0 not, then halved, slanted, striped, crossed, chevron.
        second: Paint of the plate's other part.
        charge: What is in its middle, of `CHARGES`.
        ink: Paint of the charge.
        beads: How many beads hang below the plate, less one.
    """

    plate: int
    field: int
    division: int
    second: int
    charge: int
    ink: int
    beads: int


@dataclass(frozen=True)
class View:
    """One image of an emblem: everything that is not the emblem.

    Attributes:
        background: Index into `BACKGROUNDS`.
        big: Whether it fills most of the image.
        frame: Whether a frame runs around the image.
        scale: Half the emblem's height, as a share of the image's side.
        shift: Where its middle is, in shares of the side, right and down.
        tilt: Degrees, clockwise.
        squeeze: Width over height, as if seen from the side.
        light: Brightness factor.
        light_from: Side the light falls from, -1 (left) to 1 (right).
        blur: Radius in pixels.
        noise: Spread of the grain, in grey levels.
        seed: Of grain, clutter and colour shifts.
    """

    background: int
    big: bool
    frame: bool
    scale: float
    shift: Point
    tilt: float
    squeeze: float
    light: float
    light_from: float
    blur: float
    noise: float
    seed: int


def draw_emblems(count: int, rng: np.random.Generator, avoid: tuple[Emblem, ...] = ()) -> tuple[Emblem, ...]:
    """Draw emblems that differ from each other, and from those to avoid, in three of plate, field, charge, ink and
    division at least."""
    found: list[Emblem] = []
    while len(found) < count:
        field, second, ink = (int(paint) for paint in rng.permutation(len(_PAINTS))[:3])
        plate, charge, division, beads = (int(rng.integers(n)) for n in (len(PLATES), len(CHARGES), _DIVISIONS, _BEADS))
        new = Emblem(plate, field, division, second, charge, ink, beads)
        if all(_apart(new, other) >= 3 for other in (*found, *avoid)):
            found.append(new)
    return tuple(found)


def draw_view(rng: np.random.Generator) -> View:
    """Draw a view at random; what is asked about it is drawn evenly."""
    big = bool(rng.integers(2))
    low, high = (0.37, 0.43) if big else (0.22, 0.27)
    scale = float(rng.uniform(low, high))
    # The part that may leave the image is small.
    room = max(0.5 - scale, 0.0) * 0.8 + 0.03
    return View(
        background=int(rng.integers(len(BACKGROUNDS))),
        big=big,
        frame=bool(rng.integers(2)),
        scale=scale,
        shift=(float(rng.uniform(-room, room)), float(rng.uniform(-room, room))),
        tilt=float(rng.uniform(-35, 35)),
        squeeze=float(rng.uniform(0.75, 1.0)),
        light=float(rng.uniform(0.7, 1.15)),
        light_from=float(rng.uniform(-1, 1)),
        blur=float(rng.uniform(0, 1.0)),
        noise=float(rng.uniform(0, 10)),
        seed=int(rng.integers(2**31)),
    )


def render(emblem: Emblem, view: View) -> Image.Image:
    """Draw one image.

    Args:
        emblem: What is to be seen.
        view: The view: pose, light and background.

    Returns:
        An RGB image of 112 x 112 pixels, the same for the same arguments.
    """
    rng = np.random.default_rng(view.seed)
    side = SIDE * _UP
    image = Image.new("RGB", (side, side), _shaken(_BACKGROUNDS[BACKGROUNDS[view.background]], 12, rng))
    canvas = ImageDraw.Draw(image)
    _clutter(canvas, BACKGROUNDS[view.background], rng)
    image.paste(*_badge(emblem, view, side))
    if view.frame:
        edge = 5 * _UP
        dark: Colour = (225, 225, 225) if BACKGROUNDS[view.background] == "black" else (40, 32, 28)
        ImageDraw.Draw(image).rectangle((edge, edge, side - edge, side - edge), outline=dark, width=3 * _UP)
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(view.blur))
    ramp = view.light * (1 + 0.15 * view.light_from * np.linspace(-1, 1, SIDE))[None, :, None]
    pixels = np.asarray(small, dtype=np.float64) * ramp + rng.normal(0, 1, (SIDE, SIDE, 1)) * view.noise
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _apart(one: Emblem, other: Emblem) -> int:
    names = ("plate", "field", "division", "charge", "ink")
    return sum(getattr(one, name) != getattr(other, name) for name in names)


def _shaken(colour: Colour, by: float, rng: np.random.Generator) -> Colour:
    red, green, blue = (int(np.clip(channel + rng.uniform(-by, by), 0, 255)) for channel in colour)
    return red, green, blue


def _clutter(canvas: ImageDraw.ImageDraw, background: str, rng: np.random.Generator) -> None:
    """Faint spots of the background's own colour, lighter and darker."""
    side = SIDE * _UP
    for _ in range(int(rng.integers(0, 9))):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.02, 0.1) * side
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=_shaken(_BACKGROUNDS[background], 28, rng))


def _badge(emblem: Emblem, view: View, side: int) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """The emblem as a patch, where it goes and its mask."""
    half = round(view.scale * side)
    size = 2 * half
    plate_mask = Image.new("L", (size, size), 0)
    # Plates and charges are drawn in [-1, 1] with y downwards; beads need room below the plate.
    outline = [(x * 0.8, y * 0.8 - 0.12) for x, y in PLATES[emblem.plate]]
    ImageDraw.Draw(plate_mask).polygon(_scaled(outline, half), fill=255)
    patch = Image.new("RGB", (size, size), _PAINTS[emblem.field])
    canvas = ImageDraw.Draw(patch)
    for part in _parts(emblem.division):
        canvas.polygon(_scaled(part, half), fill=_PAINTS[emblem.second])
    ink = _PAINTS[emblem.ink]
    for number, shape in enumerate(CHARGES[emblem.charge]):
        points = _scaled([(x * 0.45, y * 0.45 - 0.12) for x, y in shape], half)
        canvas.polygon(points, fill=ink if number == 0 else _PAINTS[emblem.second])
        canvas.line([*points, points[0]], fill=(20, 20, 24), width=max(half // 40, 1))
    edge = max(half // 16, 2)
    points = _scaled(outline, half)
    canvas.line([*points, *points[:2]], fill=(20, 20, 24), width=edge * 2, joint="curve")
    mask = plate_mask
    pencil = ImageDraw.Draw(mask)
    for number in range(emblem.beads + 1):
        x, y, r = (number - emblem.beads / 2) * 0.3, 0.86, 0.12
        box = [*_scaled([(x - r, y - r)], half)[0], *_scaled([(x + r, y + r)], half)[0]]
        canvas.ellipse(box, fill=ink, outline=(20, 20, 24), width=edge)
        pencil.ellipse(box, fill=255)
    width = max(round(size * view.squeeze), 2)
    patch, mask = (
        layer.resize((width, size), Image.Resampling.BILINEAR).rotate(
            -view.tilt, Image.Resampling.BILINEAR, expand=True
        )
        for layer in (patch, mask)
    )
    centre = (side * (0.5 + view.shift[0]), side * (0.5 + view.shift[1]))
    return patch, (round(centre[0] - patch.width / 2), round(centre[1] - patch.height / 2)), mask


def _parts(division: int) -> list[list[Point]]:
    """The plate's other part, as polygons in [-1, 1]."""
    return [
        [],
        [[(0, -1), (1, -1), (1, 1), (0, 1)]],
        [[(-1, 1), (1, -1), (1, 1)]],
        [[(-1, y), (1, y), (1, y + 0.22), (-1, y + 0.22)] for y in (-0.85, -0.35, 0.15, 0.65)],
        [[(-0.2, -1), (0.2, -1), (0.2, 1), (-0.2, 1)], [(-1, -0.32), (1, -0.32), (1, 0.08), (-1, 0.08)]],
        [[(0, -0.1), (1, 0.75), (1, 1), (-1, 1), (-1, 0.75)]],
    ][division]


def _scaled(points: list[Point], half: int) -> list[Point]:
    return [((x + 1) * half, (y + 1) * half) for x, y in points]
