"""Qwen3-VL: the merger is a part of the tower, and the language model reads two more depths of it (DeepStack)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from benchmarks.miniature_model.kinds.kind import ready, text_settings
from benchmarks.miniature_model.kinds.qwen2_vl import FRAMES, MERGE, PATCH, SIDE_TOKENS, Qwen2VL, marks_of, rope_of
from benchmarks.miniature_model.model import Shape
from benchmarks.miniature_model.pen import SIDE

# Each is added to the image tokens behind one layer of the language model.
DEPTHS = (0, 1)


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration`; tokens, positions and inputs are those of Qwen2-VL."""

    name: ClassVar[str] = "qwen3_vl"

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        config = Qwen3VLConfig(
            text_config={
                **text_settings(tokenizer, shape),
                "head_dim": shape.language_width // shape.language_heads,
                "rope_parameters": rope_of(shape),
            },
            vision_config=self._vision(shape),
            **marks_of(tokenizer),
            tie_word_embeddings=False,
        )
        return ready(Qwen3VLForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The tower, mergers included."""
        config = Qwen3VLConfig(vision_config=self._vision(shape)).vision_config
        tower: nn.Module = Qwen3VLVisionModel._from_config(config).float()
        return tower

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the mergers make, side by side."""
        grid = inputs["image_grid_thw"]
        seen = tower(inputs["pixel_values"], grid_thw=grid)
        merged = torch.cat([seen.pooler_output, *seen.deepstack_features], dim=-1)
        return merged.reshape(len(grid), SIDE_TOKENS**2, -1)

    def width(self, shape: Shape) -> int:
        """The mergers' widths together."""
        return shape.language_width * (1 + len(DEPTHS))

    def _vision(self, shape: Shape) -> dict[str, Any]:
        return {
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_inner,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.language_width,
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": list(DEPTHS),
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": FRAMES,
        }
