"""Gemma 3 270M out of its GGUF file, and the words around a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vkdsurgeon.errors import UserError

# A token of Gemma's own that no text of ours holds.
IMAGE = "<start_of_image>"
IMAGE_TOKENS = 64
# Gemma's own end of a text; the pretrained model knows no chat.
TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if message['content'] is string %}{{ 'Question: ' + message['content'] + '\n' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<start_of_image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ 'Question: ' + part['text'] + '\n' }}{% endfor %}"
    "{% endif %}{% else %}{{ 'Answer: ' + message['content'] + '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
SEEN, READ = f"<bos>{IMAGE * IMAGE_TOKENS}\n", "<bos>"


def load_language(gguf: Path) -> tuple[Any, Any]:
    """Dequantise the model.

    Args:
        gguf: The file.

    Returns:
        `Gemma3ForCausalLM` in float32 and its tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32), AutoTokenizer.from_pretrained(**place)


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that holds its special tokens itself."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def block(tokenizer: Any, question: str, answer: str) -> list[int]:
    """Token ids of a question, the answer's one token and the end.

    Raises:
        UserError: The answer is several tokens, or it changes how the question is cut.
    """
    asked = f"Question: {question}\nAnswer:"
    before, whole = (tokens_of(tokenizer, text) for text in (asked, f"{asked} {answer}"))
    if whole[: len(before)] != before or len(whole) != len(before) + 1:
        raise UserError("an answer is not one token", value=f"{question} {answer}", expected="a word of the vocabulary")
    return [*whole, tokenizer.eos_token_id]
