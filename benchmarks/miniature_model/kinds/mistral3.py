"""Mistral 3: a Pixtral tower (rotary positions, RMS norms, gated MLPs), 2 x 2 patches merged, 16 tokens an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    LightOnOcrProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PixtralVisionModel,
    PreTrainedTokenizerFast,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from benchmarks.miniature_model.kinds.kind import Kind, ready, text_settings, vision_settings
from benchmarks.miniature_model.model import IMAGE, MEAN, SPREAD, Shape, build_tokenizer, normalised
from benchmarks.miniature_model.pen import SIDE

PATCH, MERGE = 6, 2
IMAGE_TOKENS = (SIDE // PATCH // MERGE) ** 2
_AT_ONCE = 4
# The processor asks for them and writes neither.
BREAK, IMAGE_END = "<image_break>", "<image_end>"


class Mistral3(Kind):
    """`Mistral3ForConditionalGeneration`."""

    name: ClassVar[str] = "mistral3"
    marks: ClassVar[tuple[str, ...]] = (BREAK, IMAGE_END)
    image: ClassVar[tuple[str, ...]] = (IMAGE,) * IMAGE_TOKENS

    def build_tokenizer(self, words: Sequence[str]) -> PreTrainedTokenizerFast:
        """A tokenizer that also tells the processor which token stands for images."""
        return build_tokenizer(words, self.marks, named=True)

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor.

        `PixtralProcessor` asks for torchvision. That of LightOnOCR, which has the same tower, writes the same inputs
        without breaks between rows.
        """
        images = PixtralImageProcessorPil(
            size={"longest_edge": SIDE},
            patch_size={"height": PATCH, "width": PATCH},
            image_mean=list(MEAN),
            image_std=list(SPREAD),
        )
        return LightOnOcrProcessor(
            image_processor=images,
            tokenizer=tokenizer,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            chat_template=self.template,
        )

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        config = Mistral3Config(
            vision_config=self._vision(shape),
            text_config=MistralConfig(**text_settings(tokenizer, shape), sliding_window=None),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            spatial_merge_size=MERGE,
            tie_word_embeddings=False,
        )
        return ready(Mistral3ForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The Pixtral tower."""
        tower: nn.Module = PixtralVisionModel(self._vision(shape)).float()
        return tower

    def inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 [B, 3, 48, 48] and `image_sizes` int64 [B, 2]."""
        return {"pixel_values": normalised(images), "image_sizes": torch.full((len(images), 2), SIDE)}

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tower's last tokens. It reads images as one sequence, whose attention grows with their square: few at a
        time."""
        parts = zip(*(inputs[name].split(_AT_ONCE) for name in ("pixel_values", "image_sizes")), strict=True)
        hidden = [tower(pixels, image_sizes=sizes).last_hidden_state for pixels, sizes in parts]
        return torch.cat(hidden, dim=1).reshape(len(inputs["image_sizes"]), (SIDE // PATCH) ** 2, -1)

    def _vision(self, shape: Shape) -> PixtralVisionConfig:
        return PixtralVisionConfig(
            **vision_settings(shape),
            head_dim=shape.vision_width // shape.vision_heads,
            image_size=SIDE,
            patch_size=PATCH,
        )
