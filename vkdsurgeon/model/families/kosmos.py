"""KOSMOS-2 and KOSMOS-2.5: normalised hidden states go through a resampler of a few learned queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """Vision model, normalisation, projection."""

    outputs = (PROJECTOR,)

    def __init__(self, model: nn.Module, split: Split) -> None:
        super().__init__(model, split)
        self.pixels = "pixel_values" if split.model_type == "kosmos-2" else "flattened_patches"

    @property
    def inputs(self) -> frozenset[str]:
        """The image alone."""
        return frozenset({self.pixels})

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the text model reads in place of the image tokens, [B, N, D]."""
        tower: Any = self.model.get_submodule("vision_model")
        seen = tower(**inputs).last_hidden_state
        if self.split.model_type == "kosmos-2":
            # The first version's tower normalises its pooled output alone.
            seen = tower.model.post_layernorm(seen)
        seen = nn.functional.normalize(seen, dim=-1)
        projected, _ = self.model.get_submodule("image_to_text_projection")(seen)
        return {PROJECTOR: projected}
