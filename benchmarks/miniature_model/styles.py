"""The ways to draw a cast; all take the same looks and views."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from benchmarks.miniature_model.draw import draw_face
from benchmarks.miniature_model.look import Look, View
from benchmarks.miniature_model.robots import draw_robot

Style = Callable[[Look, View], Image.Image]

STYLES: dict[str, Style] = {"avatars": draw_face, "robots": draw_robot}
