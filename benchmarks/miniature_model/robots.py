"""The style `robots`: machines of plain geometry with black outlines, on ruled or dotted paper.

The same `Look` and `View` as people have, drawn in other shapes, colours and lines: hair is what stands on the head,
skin is sheet metal, a beard is what hangs at the jaw, glasses are a welding mask's frame. So a robot can be asked the
same questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from benchmarks.miniature_model.look import Look, View
from benchmarks.miniature_model.pen import SIDE, UP, Colour, Pen, Point, arc, light, shade

_INK: Colour = (16, 16, 20)
_METAL: tuple[Colour, ...] = (
    (214, 220, 226), (120, 136, 150), (86, 164, 170), (196, 150, 84),
    (172, 96, 66), (150, 190, 110), (206, 140, 196), (70, 78, 110),
)  # fmt: skip
_TOPS: tuple[Colour, ...] = (
    (230, 40, 40), (255, 160, 0), (250, 240, 60), (40, 190, 60), (0, 190, 210),
    (40, 60, 230), (170, 40, 220), (255, 255, 255), (110, 70, 30),
)  # fmt: skip
_LAMPS: tuple[Colour, ...] = ((255, 60, 40), (60, 255, 90), (80, 170, 255), (255, 240, 120), (250, 250, 250))
_TORSOS: tuple[Colour, ...] = (
    (60, 60, 70), (220, 60, 50), (240, 170, 40), (60, 160, 80), (50, 110, 200),
    (140, 80, 180), (240, 240, 240), (0, 150, 150), (236, 130, 160),
)  # fmt: skip
_TEETH: tuple[Colour, ...] = ((250, 250, 250), (120, 220, 230), (240, 200, 80), (200, 70, 80))
# Of BACKGROUNDS, paler than behind people.
_PAPER: tuple[Colour, ...] = (
    (244, 150, 140), (252, 196, 140), (250, 244, 170), (170, 226, 160),
    (160, 200, 244), (206, 176, 232), (250, 250, 250), (92, 92, 98),
)  # fmt: skip
_FRAMES: tuple[Colour, ...] = ((20, 20, 24), (150, 30, 30), (190, 150, 50))
_HEADS: tuple[tuple[Point, ...], ...] = (
    ((-11, -11), (11, -11), (11, 12), (-11, 12)),
    ((-7, -12), (7, -12), (12, -6), (12, 7), (7, 12), (-7, 12), (-12, 7), (-12, -6)),
    ((-8, -11), (8, -11), (13, 12), (-13, 12)),
    ((-13, -11), (13, -11), (8, 12), (-8, 12)),
    ((0, -14), (12, -7), (12, 9), (0, 13), (-12, 9), (-12, -7)),
)
_GAPS = (4.0, 5.2, 6.4)


def draw_robot(look: Look, view: View) -> Image.Image:
    """Draw one image.

    Args:
        look: Who is to be seen.
        view: The view: pose, light and background.

    Returns:
        An RGB image of 48 x 48 pixels.
    """
    image = Image.new("RGB", (SIDE * UP, SIDE * UP), _PAPER[view.background])
    canvas = ImageDraw.Draw(image)
    _paper(canvas, view)
    centre = (SIDE / 2 + view.shift[0], 23.5 + view.shift[1])
    pen = Pen(canvas, centre, 0.95 * view.scale, view.tilt)
    _torso(Pen(canvas, centre, view.scale, view.tilt * 0.3), look)
    _top(pen, look)
    _head(pen, look)
    _jaw(pen, look, view.turn)
    _cheeks(pen, look, view.turn)
    _eyes(pen, look, view.turn)
    _nose(pen, look, view.turn * 1.4)
    _mouth(pen, look, view)
    if view.glasses:
        _mask(pen, look, view)
    return light(image.resize((SIDE, SIDE), Image.Resampling.BOX), view)


def _inked(pen: Pen, points: Sequence[Point], fill: Colour, width: float = 0.9) -> None:
    pen.polygon(points, fill)
    pen.line([*points, points[0]], _INK, width)


def _box(x: float, y: float, half_width: float, half_height: float) -> list[Point]:
    return [
        (x - half_width, y - half_height), (x + half_width, y - half_height),
        (x + half_width, y + half_height), (x - half_width, y + half_height),
    ]  # fmt: skip


def _paper(canvas: ImageDraw.ImageDraw, view: View) -> None:
    mark = shade(_PAPER[view.background], 0.62) if view.background != 7 else (150, 150, 156)
    side, phase = SIDE * UP, view.phase * UP
    if view.pattern == 1:
        for step in range(-1, 8):
            top = step * 7 * UP + phase
            canvas.rectangle((0, top, side, top + 2.2 * UP), fill=mark)
    elif view.pattern == 2:
        for row in range(-2, 8):
            for column in range(-2, 8):
                x, y = column * 8 * UP + phase, row * 8 * UP + phase
                canvas.rectangle((x, y, x + 2.8 * UP, y + 2.8 * UP), fill=mark)


def _torso(pen: Pen, look: Look) -> None:
    colour = _TORSOS[look.clothes]
    other = (250, 250, 250) if sum(colour) < 480 else (50, 50, 90)
    _inked(pen, _box(0, 14.5, 3.4, 4.0), (130, 130, 136))
    _inked(pen, [(-17, 19), (17, 19), (19, 40), (-19, 40)], colour)
    if look.fabric == 1:
        for x in (-13, -7, 7, 13):
            pen.polygon(_box(x, 23.5, 1.3, 4.0), other)
    elif look.fabric == 2:
        for x in (-12, -4, 4, 12):
            pen.ellipse(x, 22.2, 1.7, 1.7, other)
    elif look.fabric == 3:
        _inked(pen, _box(0, 22.6, 6.5, 2.2), other)


def _head(pen: Pen, look: Look) -> None:
    metal, size = _METAL[look.skin], (1.6, 2.8, 4.0)[look.ears]
    for side in (-1, 1):
        _inked(pen, _box(side * 13.2, 1.0, size * 0.6, size), shade(metal, 0.8))
    _inked(pen, _HEADS[look.face], metal, 1.1)


def _top(pen: Pen, look: Look) -> None:
    colour, style = _TOPS[look.hair_colour], look.hair_style
    if style == 1:  # one antenna
        pen.line([(0, -10), (0, -18)], _INK, 1.0)
        pen.ellipse(0, -18, 3.0, 3.0, colour)
    elif style == 2:  # two antennas
        for side in (-1, 1):
            pen.line([(side * 5, -9), (side * 9, -17)], _INK, 1.0)
            pen.ellipse(side * 9, -17, 2.6, 2.6, colour)
    elif style == 3:  # dish
        pen.line([(0, -10), (0, -15)], _INK, 1.2)
        _inked(pen, arc(0, -18.5, 8.0, 4.5, 0, 180), colour)
    elif style == 4:  # propeller
        pen.line([(0, -10), (0, -16)], _INK, 1.2)
        _inked(pen, [(-11, -18), (0, -16), (11, -18), (11, -14.5), (0, -16), (-11, -14.5)], colour)
    elif style == 5:  # comb
        points: list[Point] = [(-10, -9)]
        for step in range(5):
            points += [(-8 + step * 4, -18), (-6 + step * 4, -11)]
        _inked(pen, [*points, (10, -9)], colour)
    elif style == 6:  # funnel
        _inked(pen, [(-9, -10), (9, -10), (2, -20), (-2, -20)], colour)
    elif style == 7:  # horns
        for side in (-1, 1):
            _inked(pen, [(side * 5, -9), (side * 12, -7), (side * 13, -19)], colour)
    elif style == 8:  # dome
        _inked(pen, arc(0, -9, 10.5, 9.0, 180, 360), colour)
    elif style == 9:  # chimneys
        for x in (-7, 0, 7):
            _inked(pen, _box(x, -13.5, 2.0, 4.0 + (2.0 if x == 0 else 0.0)), colour)
    elif style == 10:  # ring
        pen.line(arc(0, -15, 9.0, 3.2, 0, 372), colour, 2.0)


def _eyes(pen: Pen, look: Look, turn: float) -> None:
    gap, size = _GAPS[look.eye_gap], (1.7, 2.4, 3.1)[look.eye_size]
    tilt = ((0.0, 0.0), (0.0, 0.0), (1.4, -0.9), (-1.0, 1.4))[look.brows]
    for side in (-1, 1):
        x = side * gap + turn
        _inked(pen, _box(x, -2.5, size, size), _LAMPS[look.eye_colour], 0.8)
        pen.polygon(_box(x + turn * 0.15, -2.5, 0.6, 0.6), _INK)
        # Eyes without lids, with heavy ones, or with slanting ones.
        if look.brows:
            y = -4.2 - size
            pen.line([(x - side * 2.8, y + tilt[0]), (x + side * 2.8, y + tilt[1])], _INK, 1.6)


def _nose(pen: Pen, look: Look, x: float) -> None:
    dark = shade(_METAL[look.skin], 0.55)
    if look.nose == 0:
        pen.ellipse(x, 2.8, 1.3, 1.3, dark)
    elif look.nose == 1:
        _inked(pen, [(x, 0.2), (x - 2.2, 4.4), (x + 2.2, 4.4)], dark, 0.6)
    elif look.nose == 2:
        pen.polygon(_box(x, 2.6, 2.8, 0.8), dark)
    else:
        pen.polygon(_box(x, 2.2, 0.8, 2.6), dark)


def _mouth(pen: Pen, look: Look, view: View) -> None:
    half, fill, x = (3.4, 5.0, 4.2, 5.6)[look.lips], _TEETH[look.lips], view.turn
    if view.mouth_open:
        _inked(pen, _box(x, 8.0, half, 2.4), (90, 16, 24), 0.9)
        pen.polygon(_box(x, 6.6, half - 0.8, 0.6), fill)
        return
    rise = 1.2 * view.smile
    pen.line([(x - half, 7.8 - rise), (x - half / 2, 7.8), (x + half / 2, 7.8), (x + half, 7.8 - rise)], _INK, 2.2)
    pen.line([(x - half / 2, 7.8), (x + half / 2, 7.8)], fill, 0.9)


def _jaw(pen: Pen, look: Look, turn: float) -> None:
    colour = _TOPS[look.hair_colour]
    if look.beard == 1:
        _inked(pen, _box(turn, 11.6, 6.0, 1.2), colour, 0.6)
    elif look.beard == 2:
        for x in (-4.0, 0.0, 4.0):
            pen.line([(x + turn, 11), (x + turn, 15.5)], colour, 1.6)
    elif look.beard == 3:
        _inked(pen, [(-9, 10.4), (9, 10.4), (5, 16), (-5, 16)], colour, 0.7)
    elif look.beard == 4:
        for side in (-1, 1):
            _inked(pen, _box(side * 9.0, 9.5, 1.4, 3.2), colour, 0.6)


def _cheeks(pen: Pen, look: Look, turn: float) -> None:
    if look.marks == 1:
        for x, y in ((-8.0, 2.4), (-6.0, 4.4), (8.0, 2.4), (6.0, 4.4)):
            pen.polygon(_box(x + turn, y, 0.7, 0.7), _INK)
    elif look.marks == 2:
        for x in (-7.5, 7.5):
            pen.polygon(_box(x + turn, 3.6, 1.9, 1.0), (236, 90, 30))
    elif look.marks == 3:
        pen.line([(5 + turn, 0.5), (8 + turn, 2.0), (6 + turn, 3.4), (9 + turn, 5.0)], _INK, 0.9)


def _mask(pen: Pen, look: Look, view: View) -> None:
    colour, gap = _FRAMES[view.glasses_colour], _GAPS[look.eye_gap]
    for side in (-1, 1):
        x = side * gap + view.turn
        frame = _box(x, -2.5, 3.8, 3.8)
        pen.line([*frame, frame[0]], colour, 1.3)
    pen.line([(view.turn - 12.5, -2.5), (view.turn - gap - 3.8, -2.5)], colour, 1.2)
    pen.line([(view.turn + gap + 3.8, -2.5), (view.turn + 12.5, -2.5)], colour, 1.2)
