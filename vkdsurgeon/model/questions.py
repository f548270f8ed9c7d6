"""Questions to a whole model, encoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.model.prompts import Encoder, Prompt


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: What is asked.
        media: The image it is about; None for text.
        source: `file:line` of where it came from, for messages.
    """

    text: str
    media: Path | None
    source: str


class Prompter:
    """Encodes questions; keeps encoded images as far as memory allows.

    Args:
        encoder: The model's.
        cache_bytes: Most bytes of encoded images to keep.
    """

    def __init__(self, encoder: Encoder, cache_bytes: int) -> None:
        self._encoder = encoder
        self._limit = cache_bytes
        self._held: dict[Path, int] = {}

    def __call__(self, question: Question) -> Prompt:
        """The prompt of one question."""
        prompt = self._encoder.prompt(question.text, question.media, question.source)
        if question.media is not None and question.media not in self._held:
            self._held[question.media] = sum(value.nbytes for value in prompt.media.values())
            if sum(self._held.values()) > self._limit:
                self._held.clear()
                self._encoder.drop_media()
        return prompt
