"""PaliGemma: SigLIP, one linear layer, Gemma with tied embeddings; 36 tokens an image, prompts are read both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from benchmarks.miniature_model.kinds.kind import Kind, ready, text_settings, vision_settings
from benchmarks.miniature_model.model import (
    CHAT_TEMPLATE,
    IMAGE,
    MEAN,
    SPREAD,
    START,
    USER,
    Shape,
    build_tokenizer,
)
from benchmarks.miniature_model.pen import SIDE

PATCH = 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2
# Images come first. Behind them the processor itself writes the start token; where there are none nobody else does.
_OPENING = (
    "{% set seen = namespace(any=false) %}{% for message in messages if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{% set seen.any = true %}{{ '<image>' }}"
    "{% endfor %}{% endfor %}{% if not seen.any %}{{ '<s>' }}{% endif %}"
)


class PaliGemma(Kind):
    """`PaliGemmaForConditionalGeneration`."""

    name: ClassVar[str] = "paligemma"
    image: ClassVar[tuple[str, ...]] = (IMAGE,) * IMAGE_TOKENS
    both_ways: ClassVar[bool] = True
    template: ClassVar[str] = CHAT_TEMPLATE.replace("{{ '<s>' }}", _OPENING).replace("{{ ' <image>' }}", "")

    def build_tokenizer(self, words: Sequence[str]) -> PreTrainedTokenizerFast:
        """A tokenizer that has the tokens of places and outlines too, which the processor would add after training."""
        tokenizer = build_tokenizer(words, self.marks, named=True)
        tokenizer.add_tokens(EXTRA_TOKENS)
        return tokenizer

    def build_processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The processor."""
        images = SiglipImageProcessorPil(
            size={"height": SIDE, "width": SIDE},
            image_mean=list(MEAN),
            image_std=list(SPREAD),
            image_seq_length=IMAGE_TOKENS,
        )
        return PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=self.template)

    def build_model(self, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Any:
        """A freshly initialised model in float32."""
        text = {
            **text_settings(tokenizer, shape),
            "head_dim": shape.language_width // shape.language_heads,
            "tie_word_embeddings": True,
        }
        config = PaliGemmaConfig(
            vision_config=self._vision(shape),
            text_config=GemmaConfig(**text),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            vocab_size=len(tokenizer),
            projection_dim=shape.language_width,
            hidden_size=shape.language_width,
            tie_word_embeddings=True,
        )
        return ready(PaliGemmaForConditionalGeneration(config), tokenizer)

    def build_tower(self, shape: Shape) -> nn.Module:
        """The SigLIP tower."""
        tower: nn.Module = SiglipVisionModel(self._vision(shape)).float()
        return tower

    def tokens(self, tower: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tower's last tokens."""
        hidden: torch.Tensor = tower(**inputs).last_hidden_state
        return hidden

    def beginning(self, *, seen: bool) -> tuple[str, ...]:
        """The image stands before the start token."""
        return (*self.image, START, USER) if seen else (START, USER)

    def positions(self, prefix: Sequence[str]) -> torch.Tensor:
        """Positions count from one."""
        return super().positions(prefix) + 1

    def _vision(self, shape: Shape) -> SiglipVisionConfig:
        return SiglipVisionConfig(
            **vision_settings(shape),
            image_size=SIDE,
            patch_size=PATCH,
            vision_use_head=False,
        )
