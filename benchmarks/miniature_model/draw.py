"""The style `avatars`: flat faces of people.

Everything is a function of the integers in `Look` and the numbers in `View`: the same two give the same bytes.
"""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from benchmarks.miniature_model.look import Look, View
from benchmarks.miniature_model.pen import SIDE, UP, Colour, Pen, Point, arc, light, shade

_SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (241, 194, 155), (224, 172, 120), (198, 134, 82),
    (154, 96, 56), (105, 64, 42), (250, 205, 205), (205, 185, 120),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = (
    (28, 24, 24), (92, 56, 30), (160, 98, 44), (232, 196, 96), (196, 64, 32),
    (200, 200, 206), (52, 92, 196), (232, 92, 164), (52, 156, 92),
)  # fmt: skip
_EYES: tuple[Colour, ...] = ((70, 42, 22), (40, 110, 200), (40, 150, 70), (120, 120, 130), (200, 130, 20))
_CLOTHES: tuple[Colour, ...] = (
    (190, 30, 45), (240, 140, 30), (250, 220, 60), (40, 150, 80), (40, 90, 190),
    (120, 60, 160), (235, 235, 235), (40, 40, 48), (230, 120, 170),
)  # fmt: skip
_LIPS: tuple[Colour, ...] = ((200, 80, 80), (220, 110, 100), (150, 50, 70), (178, 90, 70))
_BACKGROUNDS: tuple[Colour, ...] = (
    (205, 70, 62), (236, 150, 70), (240, 222, 110), (112, 180, 102),
    (96, 150, 220), (150, 104, 190), (238, 238, 238), (56, 56, 62),
)  # fmt: skip
_FRAMES: tuple[Colour, ...] = ((20, 20, 24), (150, 30, 30), (190, 150, 50))
# Half width and half height of the face, and how much the jaw narrows.
_FACES = ((12.0, 13.0, 0.0), (10.0, 14.5, 0.12), (12.3, 12.8, -0.16), (12.0, 14.0, 0.32), (13.4, 12.4, 0.08))


def draw_face(look: Look, view: View) -> Image.Image:
    """Draw one image.

    Args:
        look: Who is to be seen.
        view: The view: pose, light and background.

    Returns:
        An RGB image of 48 x 48 pixels.
    """
    image = Image.new("RGB", (SIDE * UP, SIDE * UP), _BACKGROUNDS[view.background])
    canvas = ImageDraw.Draw(image)
    _backdrop(canvas, view)
    centre = (SIDE / 2 + view.shift[0], 23.0 + view.shift[1])
    pen = Pen(canvas, centre, view.scale, view.tilt)
    body = Pen(canvas, (centre[0], centre[1] + 2.0), view.scale, view.tilt * 0.3)
    _hair_behind(pen, look)
    _body(body, look)
    _head(pen, look)
    _features(pen, look, view)
    _hair_in_front(pen, look)
    if view.glasses:
        _glasses(pen, look, view)
    return light(image.resize((SIDE, SIDE), Image.Resampling.BOX), view)


def _backdrop(canvas: ImageDraw.ImageDraw, view: View) -> None:
    colour = _BACKGROUNDS[view.background]
    mark = shade(colour, 0.72) if sum(colour) > 300 else (122, 122, 130)
    side, phase = SIDE * UP, view.phase * UP
    if view.pattern == 1:
        for left in range(-side, 2 * side, 12 * UP):
            start = left + phase
            canvas.polygon(
                [(start, 0), (start + 5 * UP, 0), (start + 5 * UP - side // 2, side), (start - side // 2, side)],
                fill=mark,
            )
    elif view.pattern == 2:
        for row, top in enumerate(range(-8 * UP, side + 8 * UP, 8 * UP)):
            for left in range(-12 * UP, side + 12 * UP, 10 * UP):
                x, y = left + phase + (row % 2) * 5 * UP, top + phase / 2
                canvas.ellipse((x, y, x + 4 * UP, y + 4 * UP), fill=mark)


def _body(pen: Pen, look: Look) -> None:
    cloth, skin = _CLOTHES[look.clothes], _SKINS[look.skin]
    other = (250, 250, 250) if sum(cloth) < 480 else (60, 60, 110)
    shoulders = [(-20.0, 40.0), (-19.0, 22.0), (-14.0, 16.5), (0.0, 14.0), (14.0, 16.5), (19.0, 22.0), (20.0, 40.0)]
    pen.polygon([(-4.5, 8.0), (4.5, 8.0), (5.0, 19.0), (-5.0, 19.0)], shade(skin, 0.85))
    pen.polygon(shoulders, cloth)
    if look.fabric == 1:
        for y in (18.5, 23.0):
            pen.polygon([(-19.5, y), (19.5, y), (19.5, y + 2.2), (-19.5, y + 2.2)], other)
    elif look.fabric == 2:
        for x, y in ((-14, 19.5), (-9, 23), (9, 23), (14, 19.5), (0, 22.5), (-17, 25), (17, 25)):
            pen.ellipse(x, y, 1.5, 1.5, other)
    elif look.fabric == 3:
        pen.polygon([(-7.5, 14.5), (7.5, 14.5), (0.0, 26.0)], other)
    pen.ellipse(0.0, 14.5, 5.0, 3.4, shade(skin, 0.85))


def _face_outline(look: Look, grow: float = 0.0) -> list[Point]:
    half_width, half_height, jaw = _FACES[look.face]
    outline = []
    for x, y in arc(0.0, 0.0, 1.0, 1.0, 0.0, 360.0):
        narrow = 1.0 - jaw * max(y, 0.0) ** 1.3 if jaw >= 0 else 1.0 - jaw * abs(y) ** 2
        outline.append((x * (half_width + grow) * narrow, y * (half_height + grow)))
    return outline


def _head(pen: Pen, look: Look) -> None:
    skin = _SKINS[look.skin]
    half_width = _FACES[look.face][0]
    size = (1.8, 2.7, 3.6)[look.ears]
    for side in (-1.0, 1.0):
        pen.ellipse(side * (half_width + 0.4), 1.0, size, size * 1.15, shade(skin, 0.9))
    pen.polygon(_face_outline(look), skin)


def _features(pen: Pen, look: Look, view: View) -> None:
    skin, turn = _SKINS[look.skin], view.turn
    _marks(pen, look, turn)
    _beard(pen, look, turn)
    gap = (4.0, 4.9, 5.8)[look.eye_gap]
    size = (1.7, 2.2, 2.8)[look.eye_size]
    for side in (-1.0, 1.0):
        x = side * gap + turn
        pen.ellipse(x, -1.0, size * 1.15, size, (252, 252, 252))
        pen.ellipse(x + turn * 0.15, -1.0, size * 0.66, size * 0.72, _EYES[look.eye_colour])
        pen.ellipse(x + turn * 0.15, -1.0, size * 0.3, size * 0.34, (10, 10, 12))
        _brow(pen, look, x, side, size)
    _nose(pen, look, skin, turn)
    _mouth(pen, look, view)


def _brow(pen: Pen, look: Look, x: float, side: float, size: float) -> None:
    width, inner, outer = ((0.7, 0.0, 0.0), (1.6, 0.0, 0.0), (1.1, 1.1, -0.7), (1.1, -1.0, 0.7))[look.brows]
    y = -2.4 - size
    colour = shade(_HAIR[look.hair_colour], 0.7)
    pen.line([(x - side * 2.4, y + inner), (x + side * 2.4, y + outer)], colour, width)


def _nose(pen: Pen, look: Look, skin: Colour, turn: float) -> None:
    dark, x = shade(skin, 0.74), turn * 1.4
    if look.nose == 0:
        pen.ellipse(x, 2.9, 1.3, 1.0, dark)
    elif look.nose == 1:
        pen.polygon([(x, -0.5), (x - 1.9, 4.0), (x + 1.9, 4.0)], dark)
    elif look.nose == 2:
        pen.ellipse(x, 3.2, 2.5, 1.7, dark)
    else:
        pen.line([(x - 0.6, -1.0), (x + 1.2, 3.8), (x - 1.2, 4.0)], dark, 0.9)


def _mouth(pen: Pen, look: Look, view: View) -> None:
    half, lips, x, y = (3.0, 4.6, 3.8, 5.2)[look.lips], _LIPS[look.lips], view.turn, 7.2
    if view.mouth_open:
        pen.ellipse(x, y + 0.3, half, 2.5, lips)
        pen.ellipse(x, y + 0.3, half - 0.9, 1.6, (60, 12, 20))
        pen.polygon([(x - half + 1.3, y - 0.7), (x + half - 1.3, y - 0.7), (x, y + 0.3)], (250, 250, 250))
        return
    dip = 1.8 * view.smile
    curve = [(x + half * step / 4, y + dip * (1 - (step / 4) ** 2) - dip / 2) for step in range(-4, 5)]
    pen.line(curve, lips, 1.3)


def _marks(pen: Pen, look: Look, turn: float) -> None:
    skin = _SKINS[look.skin]
    if look.marks == 1:
        for x, y in ((-6.5, 2.6), (-4.6, 3.8), (-7.6, 4.4), (6.5, 2.6), (4.6, 3.8), (7.6, 4.4)):
            pen.ellipse(x + turn, y, 0.6, 0.6, shade(skin, 0.62))
    elif look.marks == 2:
        for x in (-7.0, 7.0):
            pen.ellipse(x + turn, 4.0, 2.4, 1.6, (232, 112, 112))
    elif look.marks == 3:
        pen.ellipse(5.2 + turn, 4.9, 1.0, 1.0, (60, 30, 24))


def _beard(pen: Pen, look: Look, turn: float) -> None:
    colour = shade(_HAIR[look.hair_colour], 0.86)
    if look.beard == 1:
        pen.ellipse(turn, 5.6, 4.8, 1.5, colour)
    elif look.beard == 2:
        pen.ellipse(turn, 11.2, 3.0, 3.0, colour)
    elif look.beard == 3:
        lower = [point for point in _face_outline(look, 0.6) if point[1] >= 1.5]
        pen.polygon([*lower, (-8.0, 4.5), (-5.0, 5.2), (0.0, 4.6), (5.0, 5.2), (8.0, 4.5)], colour)
    elif look.beard == 4:
        for side in (-1.0, 1.0):
            x = side * (_FACES[look.face][0] - 1.3)
            pen.polygon(
                [(x - 1.3, -4.0), (x + 1.3, -4.0), (x + 0.8 - side * 1.6, 6.5), (x - 0.8 - side * 1.6, 6.5)], colour
            )


def _hair_behind(pen: Pen, look: Look) -> None:
    colour = shade(_HAIR[look.hair_colour], 0.9)
    width, height, _ = _FACES[look.face]
    if look.hair_style == 3:  # long
        pen.polygon([*arc(0, -2, width + 3.2, height + 2.0, 180, 360), (width + 3.6, 19), (-width - 3.6, 19)], colour)
    elif look.hair_style == 4:  # bob
        pen.polygon([*arc(0, -2, width + 3.4, height + 2.2, 180, 360), (width + 3.6, 8), (-width - 3.6, 8)], colour)
    elif look.hair_style == 5:  # afro
        pen.ellipse(0, -4.5, width + 6.0, height + 3.5, colour)
    elif look.hair_style == 7:  # bun
        pen.ellipse(0, -height - 3.2, 4.6, 4.2, colour)
    elif look.hair_style == 8:  # two tails
        for side in (-1.0, 1.0):
            pen.ellipse(side * (width + 4.0), 3.0, 3.6, 7.5, colour)
    elif look.hair_style == 10:  # curls
        for degrees in range(150, 400, 25):
            [(x, y)] = arc(0, -2.0, width + 1.5, height, degrees, degrees)[:1]
            pen.ellipse(x, y, 3.6, 3.6, colour)


def _cap(look: Look, line: float, bow: float, grow: float = 0.9) -> list[Point]:
    """The top of the head down to a hair line at height `line` that bows up by `bow` in the middle."""
    width, height, _ = _FACES[look.face]
    edge = math.degrees(math.asin(min(max(-line / (height + grow), -1.0), 1.0)))
    top = arc(0, 0, width + grow, height + grow, 180 + edge, 360 - edge)
    right, left = top[-1], top[0]
    across = [
        (right[0] + (left[0] - right[0]) * step / 8, line - bow * math.sin(math.pi * step / 8)) for step in range(9)
    ]
    return [*top, *across]


def _hair_in_front(pen: Pen, look: Look) -> None:
    colour = _HAIR[look.hair_colour]
    width, height, _ = _FACES[look.face]
    style = look.hair_style
    if style == 1:  # short
        pen.polygon(_cap(look, -4.0, 3.6), colour)
    elif style == 2:  # side parting
        pen.polygon(
            [*arc(0, 0, width + 1.2, height + 1.6, 185, 355), (width + 0.5, -3), (-2, -10.5), (-width - 0.5, -2)],
            colour,
        )
    elif style == 3:
        pen.polygon(_cap(look, -3.0, 6.5, 1.2), colour)
    elif style == 4:  # bob with fringe
        pen.polygon(_cap(look, -5.4, 0.0, 1.4), colour)
    elif style == 5:
        pen.polygon(_cap(look, -5.5, 2.5), colour)
    elif style == 6:  # mohawk
        pen.polygon(
            [(-3.4, -6.5), (-4.2, -height - 5.5), (0, -height - 7.0), (4.2, -height - 5.5), (3.4, -6.5)], colour
        )
    elif style in (7, 8):
        pen.polygon(_cap(look, -5.0, 3.0), colour)
        if style == 8:
            pen.line([(0, -height - 0.5), (0, -8.5)], shade(_SKINS[look.skin], 0.9), 0.8)
    elif style == 9:  # spikes
        tips: list[Point] = []
        for step in range(7):
            x = -width + step * width / 3
            tips += [(x, -height - 4.5 + abs(x) * 0.32), (x + width / 6, -height + 0.6 + abs(x) * 0.25)]
        pen.polygon(
            [(-width - 0.6, -4.0), *tips[:-1], (width + 0.6, -4.0), (width - 3, -7.2), (-width + 3, -7.2)], colour
        )
    elif style == 10:
        for x in (-8.0, -4.0, 0.0, 4.0, 8.0):
            pen.ellipse(x, -height + 2.6 + abs(x) * 0.25, 3.2, 2.9, colour)


def _glasses(pen: Pen, look: Look, view: View) -> None:
    colour = _FRAMES[view.glasses_colour]
    gap = (4.0, 4.9, 5.8)[look.eye_gap]
    for side in (-1.0, 1.0):
        x = side * gap + view.turn
        pen.line(arc(x, -0.9, 3.5, 3.3, 0, 372), colour, 0.9)
        pen.line([(x + side * 3.5, -1.2), (side * _FACES[look.face][0], -1.8)], colour, 0.8)
    pen.line([(view.turn - gap + 3.4, -1.3), (view.turn + gap - 3.4, -1.3)], colour, 0.9)
