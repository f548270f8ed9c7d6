"""Llama 4: `get_image_features` stops before the projector, which its forward pass applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Vision model, then the projector."""

    inputs = frozenset({"pixel_values"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected patches of all tiles, [tiles, N, D]."""
        seen = self._method(**inputs, return_dict=True).last_hidden_state
        return {PROJECTOR: self.model.get_submodule("multi_modal_projector")(seen)}
