"""Molmo 2: what is pooled is told by numbers of patches, counted through all images of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vkdsurgeon.model.image_features import ImageFeatures


class Features(ImageFeatures):
    """As other families, but for how images are put together."""

    def collate(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Each image's patch numbers go on where those of the image before end; negative ones are padding."""
        batch = super().collate(images)
        begin, pooled = 0, []
        for image in images:
            numbers = image["image_token_pooling"]
            pooled.append(torch.where(numbers >= 0, numbers + begin, numbers))
            # [crops, patches, values of a patch]
            begin += image["pixel_values"].shape[:-1].numel()
        return {**batch, "image_token_pooling": torch.cat(pooled)}
