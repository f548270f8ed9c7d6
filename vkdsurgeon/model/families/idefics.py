"""IDEFICS: cross-attention layers of the language model read the tower, through a resampler where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Vision model, then the perceiver resampler if the config asks for one."""

    inputs = frozenset({"pixel_values"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the cross-attention layers read, [B, N, D]."""
        seen = self.model.get_submodule("model.vision_model")(**inputs).last_hidden_state
        if self.split.config.use_resampler:
            seen = self.model.get_submodule("model.perceiver_resampler")(seen)
        return {PROJECTOR: seen}
