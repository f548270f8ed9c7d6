"""What small models of every kind share: sizes, words, the chat template, and how they go to disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END, IMAGE, USER, ASSISTANT = "<pad>", "<unk>", "<s>", "</s>", "<image>", "<user>", "<assistant>"
SPECIAL = (PAD, UNKNOWN, START, END, IMAGE, USER, ASSISTANT)
MEAN, SPREAD = (0.55, 0.45, 0.42), (0.3, 0.28, 0.28)

# One turn is `<s> <user> [<image>] question <assistant> answer </s>`; an image always stands before the words.
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


def build_tokenizer(words: Sequence[str], marks: Sequence[str] = (), *, named: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer in which every word is one token.

    Args:
        words: The words.
        marks: Special tokens besides `SPECIAL`.
        named: Give every special token an attribute of the tokenizer, such as `image_token` for `<image>`.
    """
    table = {word: index for index, word in enumerate((*SPECIAL, *marks, *words))}
    inner = Tokenizer(WordLevel(table, unk_token=UNKNOWN))
    inner.pre_tokenizer = Whitespace()
    added = [IMAGE, USER, ASSISTANT, *marks]
    special: dict[str, Any] = {"additional_special_tokens": added}
    if named:
        special = {"extra_special_tokens": {f"{token.strip('<>')}_token": token for token in added}}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        **special,
        padding_side="left",
        model_max_length=512,
    )


def save_checkpoint(model: Any, processor: Any, out: Path) -> None:
    """Round the model to bfloat16 in place and write it, in at least two shards, with its processor."""
    model.to(torch.bfloat16)
    size = sum(parameter.numel() * 2 for parameter in model.parameters())
    model.save_pretrained(out, max_shard_size=int(size * 0.6))
    processor.save_pretrained(out)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Pixels as the image processors scale them.

    Args:
        images: uint8 [B, H, W, 3].

    Returns:
        float32 [B, 3, H, W].
    """
    scaled = images.to(torch.float32) / 255.0
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(0, 3, 1, 2).contiguous()
