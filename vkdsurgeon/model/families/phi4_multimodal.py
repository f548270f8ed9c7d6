"""Phi-4-multimodal: one module puts the features of tiles and overview in the places of the image's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures


class Features(ImageFeatures):
    """The image embedding, given a text of nothing but image tokens."""

    pixels = "image_pixel_values"
    inputs = frozenset({"image_pixel_values", "image_sizes", "image_attention_mask", "num_img_tokens"})
    outputs = (PROJECTOR,)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What stands in the places of the image tokens, [N of all images, D]."""
        given = dict(inputs)
        total = int(given.pop("num_img_tokens").sum())
        pixels = given[self.pixels]
        token = self.split.config.vision_config.image_token_id
        ids = torch.full((1, total), token, device=pixels.device)
        empty = torch.zeros(1, total, self.split.config.hidden_size, device=pixels.device, dtype=pixels.dtype)
        embed = self.model.get_submodule("model.embed_tokens_extend.image_embed")
        return {PROJECTOR: embed(input_ids=ids, inputs_embeds=empty, **given)[0]}
