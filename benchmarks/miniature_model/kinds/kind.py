"""What the miniature needs to know about an architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.miniature_model.model import (
    CHAT_TEMPLATE,
    MEAN,
    SPREAD,
    START,
    USER,
    Shape,
    build_tokenizer,
    normalised,
)
from benchmarks.miniature_model.pen import SIDE


class Kind(ABC):
    """One architecture of transformers, at the miniature's size.

    Attributes:
        name: transformers' model type.
        marks: Special tokens besides `SPECIAL`.
        image: The tokens that a prompt holds where an image stands, as the processor writes them.
        template: The chat template.
        both_ways: Whether all tokens of a prompt see each other, an image its question too; answers are causal anyway.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]] = ()
    image: ClassVar[tuple[str, ...]]
    template: ClassVar[str] = CHAT_TEMPLATE
    both_ways: ClassVar[bool] = False

    def build_tokenizer(self, words: Sequence[str]) -> PreTrainedTokenizerFast:
        """A tokenizer in which every word and every mark is one token."""
        return build_tokenizer(words, self.marks)

    @abstractmethod
    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor; it needs no torchvision."""

    @abstractmethod
    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""

    @abstractmethod
    def build_tower(self, shape: Shape) -> nn.Module:
        """The vision tower alone, freshly initialised in float32."""

    def tower_of(self, model: Any) -> nn.Module:
        """The model's vision tower, which takes the state of one from `build_tower`."""
        tower: nn.Module = model.model.vision_tower
        return tower

    def inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the image processor makes of 48-pixel images, without going through PIL.

        Args:
            images: uint8 [B, 48, 48, 3].

        Returns:
            The model's inputs of B images; pixels in float32, alone [B, 3, 48, 48] unless a kind says otherwise.
        """
        return {"pixel_values": normalised(images)}

    @abstractmethod
    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The visual tokens that the rest of the model reads, [B, N, D], D the tower's `width`."""

    def width(self, shape: Shape) -> int:
        """The last dimension of `tokens`."""
        return shape.vision_width

    def beginning(self, *, seen: bool) -> tuple[str, ...]:
        """A prompt's tokens before its question, with an image or without, as processor and template write them."""
        return (START, USER, *self.image) if seen else (START, USER)

    def positions(self, prefix: Sequence[str]) -> torch.Tensor:
        """Positions of a prompt's beginning, int64 [A, P], A the axes of the model's rotary positions."""
        return torch.arange(len(prefix))[None]


def text_settings(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> dict[str, Any]:
    """Settings that the language models of all kinds share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.language_width,
        "intermediate_size": shape.language_inner,
        "num_hidden_layers": shape.language_layers,
        "num_attention_heads": shape.language_heads,
        "num_key_value_heads": shape.language_heads,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }


def vision_settings(shape: Shape) -> dict[str, int]:
    """Settings that the towers of most kinds share."""
    return {
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_inner,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.vision_heads,
    }


def clip_images() -> CLIPImageProcessorPil:
    """The image processor of CLIP, by PIL alone."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(SPREAD),
    )


def ready(model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Let generation know the special tokens; float32."""
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()
