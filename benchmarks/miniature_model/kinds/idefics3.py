"""Idefics3, the architecture of the first SmolVLM: pixel shuffle before a linear connector, 16 tokens an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from benchmarks.miniature_model.kinds.kind import Kind, ready, text_settings, vision_settings
from benchmarks.miniature_model.model import IMAGE, MEAN, SPREAD, Shape, normalised
from benchmarks.miniature_model.pen import SIDE

PATCH, SHUFFLE = 6, 2
IMAGE_TOKENS = (SIDE // PATCH // SHUFFLE) ** 2
# The processor's own names.
AROUND, WHOLE, END_OF_UTTERANCE = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"


class Idefics3(Kind):
    """`Idefics3ForConditionalGeneration`."""

    name: ClassVar[str] = "idefics3"
    marks: ClassVar[tuple[str, ...]] = (AROUND, WHOLE, END_OF_UTTERANCE)
    image: ClassVar[tuple[str, ...]] = (AROUND, WHOLE, *(IMAGE,) * IMAGE_TOKENS, AROUND)

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor; images are not split."""
        edge = {"longest_edge": SIDE}
        images = Idefics3ImageProcessorPil(
            size=edge, max_image_size=edge, do_image_splitting=False, image_mean=list(MEAN), image_std=list(SPREAD)
        )
        return Idefics3Processor(
            image_processor=images, tokenizer=tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=self.template
        )

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        config = Idefics3Config(
            vision_config=self._vision(shape).to_dict(),
            text_config={"model_type": "llama", **text_settings(tokenizer, shape)},
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
            scale_factor=SHUFFLE,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
        return ready(Idefics3ForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The SigLIP-like tower."""
        tower: nn.Module = Idefics3VisionTransformer(self._vision(shape)).float()
        return tower

    def tower_of(self, model: Any) -> nn.Module:
        """The model's tower, without the connector."""
        tower: nn.Module = model.model.vision_model
        return tower

    def inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 [B, 1, 3, 48, 48] and `pixel_attention_mask` int64 [B, 1, 48, 48]."""
        return {
            "pixel_values": normalised(images)[:, None],
            "pixel_attention_mask": torch.ones(len(images), 1, SIDE, SIDE, dtype=torch.int64),
        }

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tower's last tokens."""
        hidden: torch.Tensor = tower(inputs["pixel_values"][:, 0]).last_hidden_state
        return hidden

    def _vision(self, shape: Shape) -> Any:
        return Idefics3VisionConfig(
            **vision_settings(shape),
            image_size=SIDE,
            patch_size=PATCH,
        )
