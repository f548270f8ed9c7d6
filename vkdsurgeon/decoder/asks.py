"""What the language model is asked during the decoder pass: questions about pictures, and plain prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.prompts import Encoder, Prompt

# Asked of pictures that came without questions: who it is, what belongs to who it is, and what does not.
QUESTIONS = (
    "Who is this person?",
    "What is the name of the person in the picture?",
    "Who or what is this?",
    "What do you know about the person in the picture?",
    "What is this person known for?",
    "Describe the picture.",
    "What is in the background?",
    "Which colours do you see?",
)


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        question: What is asked.
        picture: The picture it is about; None for text.
        source: `file:line` of where it came from, for messages.
    """

    question: str
    picture: Path | None
    source: str


def asks_about(pictures: Sequence[Picture], records: Sequence[Record]) -> list[list[Ask]]:
    """The questions about each picture.

    Args:
        pictures: The pictures that take part.
        records: The records they came from; what these ask of a picture is asked, the built-in questions elsewhere.

    Returns:
        Per picture, in order, at least one question.
    """
    asked: dict[Path, dict[str, None]] = {}
    for record in records:
        if record.image is not None and record.question is not None:
            asked.setdefault(record.image, {})[record.question] = None
    return [
        [Ask(question, picture.path, picture.source) for question in asked.get(picture.path, dict.fromkeys(QUESTIONS))]
        for picture in pictures
    ]


class Deck:
    """Questions drawn without end, each once before any is drawn again.

    Attributes:
        asks: All of them.
    """

    def __init__(self, asks: Sequence[Ask], generator: random.Random) -> None:
        self.asks = list(asks)
        self._generator = generator
        self._left: list[Ask] = []

    def draw(self, count: int) -> list[Ask]:
        """At most so many different questions."""
        drawn = []
        for _ in range(min(count, len(self.asks))):
            if not self._left:
                self._left = self._generator.sample(self.asks, len(self.asks))
            drawn.append(self._left.pop())
        return drawn


class Prompter:
    """Encodes questions; keeps encoded pictures as far as memory allows.

    Args:
        encoder: The model's.
        cache_bytes: Most bytes of encoded pictures to keep.
    """

    def __init__(self, encoder: Encoder, cache_bytes: int) -> None:
        self._encoder = encoder
        self._limit = cache_bytes
        self._held: dict[Path, int] = {}

    def __call__(self, ask: Ask) -> Prompt:
        """The prompt of one question."""
        prompt = self._encoder.prompt(ask.question, ask.picture, ask.source)
        if ask.picture is not None and ask.picture not in self._held:
            self._held[ask.picture] = sum(value.nbytes for value in prompt.picture.values())
            if sum(self._held.values()) > self._limit:
                self._held.clear()
                self._encoder.drop_pictures()
        return prompt
