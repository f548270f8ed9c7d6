"""What models hear: `get_audio_features` of the innermost module that has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures

_MASKS = ("feature_attention_mask", "input_features_mask")


class Features(ImageFeatures):
    """Tower of sound and projector; no family feeds several depths of the language model."""

    pixels = "input_features"
    outputs = (PROJECTOR,)
    depths = ()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected frames; where the tower tells which of them only pad, without those."""
        output = self._method(**inputs, return_dict=True)
        held = getattr(output, "attention_mask", None)
        return {PROJECTOR: output.pooler_output if held is None else output.pooler_output[held]}

    def arranged(self, produced: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the mask of the frames that hold sound by the name that the model has for it."""
        mask = next((name for name in _MASKS if name in self.inputs), None)
        renamed = {} if mask is None or "attention_mask" not in produced else {mask: produced["attention_mask"]}
        return {**produced, **renamed}
