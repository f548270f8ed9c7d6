"""LLaVA: a CLIP tower read before its last layer, a two-layer projector, 36 tokens an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from benchmarks.miniature_model.kinds.kind import Kind, clip_images, ready, text_settings, vision_settings
from benchmarks.miniature_model.model import IMAGE, Shape
from benchmarks.miniature_model.pen import SIDE

PATCH = 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2


class Llava(Kind):
    """`LlavaForConditionalGeneration`."""

    name: ClassVar[str] = "llava"
    image: ClassVar[tuple[str, ...]] = (IMAGE,) * IMAGE_TOKENS

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
        """The processor."""
        # The class token is the additional one, and the default strategy drops it again.
        return LlavaProcessor(
            image_processor=clip_images(),
            tokenizer=tokenizer,
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.template,
            image_token=IMAGE,
        )

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        config = LlavaConfig(
            vision_config=self._vision(shape),
            text_config=LlamaConfig(**text_settings(tokenizer, shape)),
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=IMAGE_TOKENS,
            tie_word_embeddings=False,
        )
        return ready(LlavaForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The CLIP tower."""
        tower: nn.Module = CLIPVisionModel(self._vision(shape)).float()
        return tower

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The patch tokens of the layer before the last."""
        hidden: torch.Tensor = tower(**inputs, output_hidden_states=True).hidden_states[-2]
        return hidden[:, 1:]

    def _vision(self, shape: Shape) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            **vision_settings(shape),
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=shape.vision_width,
        )
