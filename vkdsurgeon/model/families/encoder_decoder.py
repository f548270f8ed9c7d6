"""Encoder-decoders whose encoder only sees: Pix2Struct, PP-FormulaNet, and any vision encoder before a text decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """The encoder, then the one layer that fits its width to the decoder's, where there is one."""

    outputs = (PROJECTOR,)

    def __init__(self, model: nn.Module, split: Split) -> None:
        super().__init__(model, split)
        self.pixels = "flattened_patches" if split.model_type == "pix2struct" else "pixel_values"

    @property
    def inputs(self) -> frozenset[str]:
        """The image, and which patches are padding where the family pads."""
        return frozenset({self.pixels, "attention_mask"} if self.pixels == "flattened_patches" else {self.pixels})

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the decoder's cross-attention reads, [B, N, D]."""
        output = self.model.get_submodule(self.split.placement.tower)(**inputs)
        if self.split.model_type == "pp_formulanet":
            return {PROJECTOR: output.pooler_output}
        projector: Any = getattr(self.model, "enc_to_dec_proj", None)
        seen = output.last_hidden_state
        return {PROJECTOR: seen if projector is None else projector(seen)}
