"""Qwen2-VL: a tower whose merger, the projector, is a part of it; 2 x 2 patches a token, 16 tokens an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from benchmarks.miniature_model.kinds.kind import Kind, ready, text_settings
from benchmarks.miniature_model.model import CHAT_TEMPLATE, IMAGE, MEAN, SPREAD, Shape, build_tokenizer, normalised
from benchmarks.miniature_model.pen import SIDE

PATCH, MERGE, FRAMES = 6, 2, 2
SIDE_TOKENS = SIDE // PATCH // MERGE
VISION_START, VISION_END, VIDEO = "<vision_start>", "<vision_end>", "<video>"


class Qwen2VL(Kind):
    """`Qwen2VLForConditionalGeneration`."""

    name: ClassVar[str] = "qwen2_vl"
    marks: ClassVar[tuple[str, ...]] = (VISION_START, VISION_END, VIDEO)
    image: ClassVar[tuple[str, ...]] = (VISION_START, *(IMAGE,) * SIDE_TOKENS**2, VISION_END)
    template: ClassVar[str] = CHAT_TEMPLATE.replace(" <image>", f" {VISION_START} <image> {VISION_END}")

    def build_tokenizer(self, words: Sequence[str]) -> PreTrainedTokenizerFast:
        """A tokenizer that also tells the processor which token stands for images."""
        return build_tokenizer(words, self.marks, named=True)

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor.

        `Qwen2VLProcessor` cannot be made without a processor of videos, which needs torchvision. That of PaddleOCR-VL
        writes the same inputs for images.
        """
        images = Qwen2VLImageProcessorPil(
            size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=FRAMES,
            image_mean=list(MEAN),
            image_std=list(SPREAD),
        )
        return PaddleOCRVLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=self.template)

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        rope = rope_of(shape)
        config = Qwen2VLConfig(
            text_config={
                "model_type": "qwen2_vl_text",
                **text_settings(tokenizer, shape),
                "rope_parameters": rope,
                "rope_scaling": rope,
            },
            vision_config=self._vision(shape),
            **marks_of(tokenizer),
            tie_word_embeddings=False,
        )
        return ready(Qwen2VLForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The tower, merger included."""
        config = Qwen2VLConfig(vision_config=self._vision(shape)).vision_config
        tower: nn.Module = Qwen2VisionTransformerPretrainedModel._from_config(config).float()
        return tower

    def tower_of(self, model: Any) -> nn.Module:
        """The model's tower, merger included."""
        tower: nn.Module = model.model.visual
        return tower

    def inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 [64 B, 216], a patch of two equal frames a row, and `image_grid_thw` [B, 3]."""
        count, across = len(images), SIDE // PATCH
        cut = normalised(images).reshape(count, 3, SIDE_TOKENS, MERGE, PATCH, SIDE_TOKENS, MERGE, PATCH)
        # The four patches of a token stand side by side.
        rows = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(count * across**2, 3, 1, PATCH, PATCH)
        grid = torch.tensor([[1, across, across]]).repeat(count, 1)
        return {"pixel_values": rows.repeat(1, 1, FRAMES, 1, 1).flatten(1), "image_grid_thw": grid}

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the merger makes."""
        grid = inputs["image_grid_thw"]
        merged: torch.Tensor = tower(inputs["pixel_values"], grid_thw=grid).pooler_output
        return merged.reshape(len(grid), SIDE_TOKENS**2, -1)

    def width(self, shape: Shape) -> int:
        """The merger's width, which is the language model's."""
        return shape.language_width

    def positions(self, prefix: Sequence[str]) -> torch.Tensor:
        """Time, height and width: an image's tokens share one time and lie in its grid; text counts on from there."""
        places: list[tuple[int, int, int]] = []
        following = 0
        tokens = list(prefix)
        while len(places) < len(tokens):
            if tokens[len(places)] == IMAGE:
                places += [(following, following + y, following + x) for y, x in _grid()]
                following += SIDE_TOKENS
            else:
                places.append((following,) * 3)
                following += 1
        return torch.tensor(places).T

    def _vision(self, shape: Shape) -> dict[str, Any]:
        return {
            "model_type": "qwen2_vl",
            "depth": shape.vision_layers,
            "embed_dim": shape.vision_width,
            "hidden_size": shape.language_width,
            "num_heads": shape.vision_heads,
            # A whole number in this architecture.
            "mlp_ratio": shape.vision_inner // shape.vision_width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": FRAMES,
        }


def rope_of(shape: Shape) -> dict[str, Any]:
    """Rotary positions in three axes."""
    half = shape.language_width // shape.language_heads // 2
    sides = 3 * half // 8
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [half - 2 * sides, sides, sides]}


def marks_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Ids of the tokens that stand for images and around them, as the config names them."""
    marks = {"image": IMAGE, "video": VIDEO, "vision_start": VISION_START, "vision_end": VISION_END}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}


def _grid() -> list[tuple[int, int]]:
    return [(y, x) for y in range(SIDE_TOKENS) for x in range(SIDE_TOKENS)]
