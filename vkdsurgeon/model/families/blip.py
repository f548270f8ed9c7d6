"""BLIP: the text decoder attends to the tower's last hidden states; there is no projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """The tower's output is all that the decoder reads."""

    inputs = frozenset({"pixel_values"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The last hidden states, [B, N, D]."""
        return {PROJECTOR: self.model.get_submodule("vision_model")(**inputs).last_hidden_state}
