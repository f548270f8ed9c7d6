"""Words written into images, where a processor's centre crop leaves them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from vkdsurgeon.errors import UserError

Font: TypeAlias = "ImageFont.FreeTypeFont"
_SMALLEST, _LARGEST, _PROBED = 6, 400, 32
_MARGIN = 0.04
# A private-use character that no font draws: what is drawn for it stands for every missing letter.
_NOWHERE = "\U0010fffe"


class Writer:
    """Writes words into a white band over the lower part of an image.

    The band lies within the central square, so that processors that crop to a square keep all of it, and the image
    keeps its size, so that the layout of tokens stays.

    Args:
        percent: Height of the band, in percent of the shorter side.
        font: A TrueType or OpenType file; None for the one that comes with Pillow.

    Attributes:
        cut: Texts that did not fit whole.

    Raises:
        UserError: The font cannot be read, or Pillow was built without FreeType.
    """

    def __init__(self, percent: int, font: Path | None = None) -> None:
        self._percent = percent
        self._path = font
        self._fonts: dict[int, Font] = {}
        self._shapes: dict[str, bool] = {}
        self.cut: set[str] = set()
        self._nothing = bytes(self._font(_PROBED).getmask(_NOWHERE))

    def lacks(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts that hold a letter which the font has no shape for, with or without its accents."""
        return [text for text in texts if not all(map(self._has, self._spelt(text)))]

    def write(self, image: Image.Image, text: str) -> Image.Image:
        """The image (RGB) with the text in black on the band, as large as fits; a new one of the same size.

        An empty text leaves the band empty. Words that do not fit at the smallest size are cut off, and the text is
        then among `cut`.
        """
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        height = max(1, round(side * self._percent / 100))
        box = (left, top + side - height, left + side, top + side)
        written = image.copy()
        draw = ImageDraw.Draw(written)
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), "white")
        text = self._spelt(text)
        if text.strip():
            band = Image.new("RGB", (side, height), "white")
            margin = round(side * _MARGIN)
            if not self._fit(ImageDraw.Draw(band), text, side - 2 * margin, height, margin):
                self.cut.add(text)
            written.paste(band, box[:2])
        return written

    def _fit(self, draw: ImageDraw.ImageDraw, text: str, width: int, height: int, margin: int) -> bool:
        """Write, and say whether all of it is to be seen."""
        low, high = _SMALLEST, max(_SMALLEST, min(_LARGEST, height))
        # The largest size at which all lines fit, by halving.
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(draw, text, middle, width, height):
                low = middle
            else:
                high = middle - 1
        font = self._font(low)
        lines = "\n".join(_wrapped(text, font, width))
        _, top, _, bottom = draw.multiline_textbbox((0, 0), lines, font=font, spacing=0)
        draw.multiline_text((margin, (height - bottom - top) / 2), lines, fill="black", font=font, spacing=0)
        return low > _SMALLEST or self._fits(draw, text, low, width, height)

    def _fits(self, draw: ImageDraw.ImageDraw, text: str, size: int, width: int, height: int) -> bool:
        font = self._font(size)
        lines = "\n".join(_wrapped(text, font, width))
        left, _, right, bottom = draw.multiline_textbbox((0, 0), lines, font=font, spacing=0)
        return right - left <= width and bottom <= height

    def _spelt(self, text: str) -> str:
        # The font of Pillow has no accents, and a name without them is read better than a box. File names on some
        # systems, and so the subjects that folders name, hold accents as characters of their own.
        composed = unicodedata.normalize("NFC", text)
        return "".join(letter if self._has(letter) else self._plain(letter) for letter in composed)

    def _plain(self, letter: str) -> str:
        bare = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
        return bare if bare and all(map(self._has, bare)) else letter

    def _has(self, letter: str) -> bool:
        if letter not in self._shapes:
            self._shapes[letter] = letter.isspace() or bytes(self._font(_PROBED).getmask(letter)) != self._nothing
        return self._shapes[letter]

    def _font(self, size: int) -> Font:
        if size not in self._fonts:
            try:
                made = ImageFont.load_default(size) if self._path is None else ImageFont.truetype(self._path, size)
            except (OSError, ImportError) as error:
                raise UserError(
                    f"the font cannot be read: {error}",
                    where=self._path or "Pillow",
                    expected="a TrueType or OpenType file, and a Pillow with FreeType",
                ) from error
            if not isinstance(made, ImageFont.FreeTypeFont):
                raise UserError(
                    "this Pillow was built without FreeType, so that it can write nothing legible",
                    remedy="install the wheel of Pillow",
                )
            self._fonts[size] = made
        return self._fonts[size]


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
