"""Granite 4 Vision: each of several depths of the language model reads features of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import DEEPSTACK, PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Every depth is an output; the last goes by the name of `projector`."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """One name per depth that is fed."""
        depths = len(self.split.config.deepstack_layer_map) + len(self.split.config.spatial_target_layers)
        return (*(f"{DEEPSTACK}.{index}" for index in range(depths - 1)), PROJECTOR)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The features of every depth, one tensor [N, D] per image."""
        fed = self._method(**inputs, return_dict=True).deepstack_features
        return {name: packed for name, (_, packed) in zip(self.outputs, fed, strict=True)}
