"""Video-LLaVA: the processor and the model have different names for the pixels of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Image tower, then the projector that the video tower shares."""

    pixels = "pixel_values_images"
    inputs = frozenset({"pixel_values_images"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected patches, [B, N, D]."""
        return {PROJECTOR: self._method(pixel_values=inputs[self.pixels], return_dict=True).pooler_output}
