"""Llama 3.2 Vision: cross-attention layers of the language model read the projected tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Vision model, then the projector."""

    inputs = frozenset({"pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected patches of all tiles, [B, images, tiles, N, D]."""
        seen = self.model.get_submodule("model.vision_model")(**inputs).last_hidden_state
        return {PROJECTOR: self.model.get_submodule("model.multi_modal_projector")(seen)}
