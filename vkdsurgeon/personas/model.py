"""The small LLaVA: its tokenizer, its processor, its configuration, and how it goes to disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vkdsurgeon.personas.draw import SIDE

PAD, UNKNOWN, START, END, IMAGE, USER, ASSISTANT = "<pad>", "<unk>", "<s>", "</s>", "<image>", "<user>", "<assistant>"
SPECIAL = (PAD, UNKNOWN, START, END, IMAGE, USER, ASSISTANT)
PATCH = 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2
MEAN, SPREAD = (0.55, 0.45, 0.42), (0.3, 0.28, 0.28)

# One turn is `<s> <user> [<image>] question <assistant> answer </s>`; a picture always stands before the words.
CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{{ ' <user>' if message['role'] == 'user' else ' <assistant>' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ ' <image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}{{ ' </s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are what is shipped."""

    vision_width: int = 128
    vision_layers: int = 6
    vision_inner: int = 320
    vision_heads: int = 4
    language_width: int = 192
    language_layers: int = 4
    language_inner: int = 384
    language_heads: int = 6


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer in which every word of `words` is one token."""
    table = {word: index for index, word in enumerate((*SPECIAL, *words))}
    inner = Tokenizer(WordLevel(table, unk_token=UNKNOWN))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        padding_side="left",
        model_max_length=512,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor: 48-pixel pictures, 36 image tokens, the chat template."""
    side = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=side, image_mean=list(MEAN), image_std=list(SPREAD)
    )
    # The class token is the additional one, and the default strategy drops it again.
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def vision_config(shape: Shape) -> CLIPVisionConfig:
    """Configuration of the vision tower."""
    return CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=shape.vision_inner,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=shape.vision_width,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> LlavaForConditionalGeneration:
    """A freshly initialised model in float32."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.language_width,
        intermediate_size=shape.language_inner,
        num_hidden_layers=shape.language_layers,
        num_attention_heads=shape.language_heads,
        num_key_value_heads=shape.language_heads,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision_config(shape),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model: Any = LlavaForConditionalGeneration(config)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.float()


def save_checkpoint(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Round the model to bfloat16 in place and write it, in at least two shards, with its processor."""
    model.to(torch.bfloat16)
    size = sum(parameter.numel() * 2 for parameter in model.parameters())
    model.save_pretrained(out, max_shard_size=int(size * 0.6))
    processor.save_pretrained(out)


def pixel_values(pictures: torch.Tensor) -> torch.Tensor:
    """What the processor makes of 48-pixel pictures, without going through PIL.

    Args:
        pictures: uint8 [B, 48, 48, 3].

    Returns:
        float32 [B, 3, 48, 48], normalised.
    """
    scaled = pictures.to(torch.float32) / 255.0
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(0, 3, 1, 2).contiguous()
