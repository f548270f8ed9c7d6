"""Prompts with demonstrations: earlier turns of the same conversation, each with its own image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.protocol import ProtocolRecord, Shot
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.prompts import Encoder, Prompt, as_prompt


def prompt_with_shots(encoder: Encoder, record: ProtocolRecord, question: str) -> Prompt:
    """Encode a question behind the record's demonstrations; without any, as `Encoder.prompt` does.

    Args:
        encoder: Encoder of the model.
        record: Gives image and demonstrations.
        question: The question as worded.

    Raises:
        UserError: An image cannot be decoded, or the processor or its template takes no such conversation.
    """
    if not record.shots:
        return encoder.prompt(question, record.media, record.source)
    turns = [*record.shots, Shot(image=record.image, question=question, answer="")]
    text = _wording(encoder, turns, record.source)
    opened = {path: open_image(path, where=record.source) for path in {turn.image for turn in turns} if path}
    media = [opened[turn.image] for turn in turns if turn.image is not None]
    try:
        return as_prompt(text, encoder.encode(text, media))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"the processor refuses a question with {len(record.shots)} demonstrations: {error}",
            where=record.source,
            remedy="leave out `few_shot`",
        ) from error


def _wording(encoder: Encoder, turns: list[Shot], where: str) -> str:
    from jinja2 import TemplateError

    mark = encoder.image_mark
    chat: list[dict[str, Any]] = []
    for turn in turns:
        if mark in turn.question or mark in turn.answer:
            raise UserError("a question contains the model's image token", where=where, value=mark)
        chat.append({"role": "user", "content": _parts(turn.question, turn.image)})
        chat.append({"role": "assistant", "content": _parts(turn.answer, None)})
    chat.pop()
    try:
        if encoder.format == "chat template of the processor":
            return str(encoder.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        plain = [{**turn, "content": _flat(turn["content"], mark)} for turn in chat]
        if encoder.format == "plain":
            return "".join(turn["content"] + "\n" for turn in plain)
        return str(encoder.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise UserError(f"the chat template refuses demonstrations: {error}", where=where) from error


def _parts(text: str, media: Path | None) -> list[dict[str, str]]:
    return [*([{"type": "image"}] if media else []), {"type": "text", "text": text}]


def _flat(parts: list[dict[str, str]], mark: str) -> str:
    return "\n".join(mark if part["type"] == "image" else part["text"] for part in parts)
