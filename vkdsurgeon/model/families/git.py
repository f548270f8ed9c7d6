"""GIT: projected patches stand before the text, in one decoder for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Image encoder, then the visual projection."""

    inputs = frozenset({"pixel_values"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected patches, [B, N, D]."""
        seen = self.model.get_submodule("git.image_encoder")(**inputs).last_hidden_state
        return {PROJECTOR: self.model.get_submodule("git.visual_projection")(seen)}
