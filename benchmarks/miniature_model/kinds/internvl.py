"""InternVL 3: a tower with layer scale, pixel shuffle, and a projector of a norm and two layers; 16 tokens an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from benchmarks.miniature_model.kinds.kind import Kind, clip_images, ready, text_settings, vision_settings
from benchmarks.miniature_model.model import IMAGE, Shape
from benchmarks.miniature_model.pen import SIDE

PATCH, SHUFFLE = 6, 2
IMAGE_TOKENS = (SIDE // PATCH // SHUFFLE) ** 2


class InternVL(Kind):
    """`InternVLForConditionalGeneration`."""

    name: ClassVar[str] = "internvl"
    image: ClassVar[tuple[str, ...]] = (IMAGE,) * IMAGE_TOKENS

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor.

        `InternVLProcessor` cannot be made without a processor of videos, which needs torchvision. That of LLaVA
        writes the same inputs for an image of one tile.
        """
        return LlavaProcessor(
            image_processor=clip_images(),
            tokenizer=tokenizer,
            patch_size=PATCH * SHUFFLE,
            vision_feature_select_strategy="full",
            num_additional_image_tokens=0,
            chat_template=self.template,
            image_token=IMAGE,
        )

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        config = InternVLConfig(
            vision_config=self._vision(shape),
            text_config=Qwen2Config(**text_settings(tokenizer, shape)),
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=IMAGE_TOKENS,
            downsample_ratio=1 / SHUFFLE,
            tie_word_embeddings=False,
        )
        return ready(InternVLForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The tower."""
        tower: nn.Module = InternVLVisionModel(self._vision(shape)).float()
        return tower

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tower's patch tokens."""
        hidden: torch.Tensor = tower(**inputs).last_hidden_state
        return hidden[:, 1:]

    def _vision(self, shape: Shape) -> InternVLVisionConfig:
        return InternVLVisionConfig(
            **vision_settings(shape),
            image_size=(SIDE, SIDE),
            patch_size=(PATCH, PATCH),
        )
