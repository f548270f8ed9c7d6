"""MiniCPM-V and MiniCPM-OCR: the strips of patches of all images lie side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vkdsurgeon.model.image_features import ImageFeatures


class Features(ImageFeatures):
    """As other families, but for how images are put together."""

    # [1, C, patch, patch * patches of all images]
    packed: ClassVar[Mapping[str, int]] = {"pixel_values": -1}
