"""Qwen2-Audio: the forward pass runs the tower itself, and the language model reads no frame that only pads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.model.families import audio
from vkdsurgeon.model.image_features import PROJECTOR


class Features(audio.Features):
    """Tower, under a mask of the frames that hold sound, then the projector."""

    inputs = frozenset({"input_features", "feature_attention_mask"})

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The projected frames that hold sound, one tensor [N, D] per clip."""
        from transformers.masking_utils import create_bidirectional_mask

        tower: Any = self.model.get_submodule(self.split.placement.tower)
        mels, held = inputs["input_features"], inputs["feature_attention_mask"].sum(-1)
        within, read = tower._get_feat_extract_output_lengths(held)
        frames = torch.arange((mels.shape[-1] - 2) // 2 + 1, device=mels.device)
        mask = create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=torch.zeros(len(mels), len(frames), 1, dtype=mels.dtype, device=mels.device),
            attention_mask=(frames < within[:, None]).long(),
        )
        seen = tower(mels, attention_mask=mask).last_hidden_state
        projected = self.model.get_submodule("model.multi_modal_projector")(seen)
        return {PROJECTOR: [clip[:length] for clip, length in zip(projected, read.tolist(), strict=True)]}
