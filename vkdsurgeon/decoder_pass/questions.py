"""What the language model is asked during the decoder pass: questions about pictures, and plain prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.data.record import Record
from vkdsurgeon.model.prompts import Encoder, Prompt

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

# Neighbours in a deck that share a forward pass.
_HAND = 8


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


Item = TypeVar("Item", bound=Ask)


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


class Deck(Generic[Item]):
    """Questions drawn without end, each once before any is drawn again.

    They come in hands of a kind, because only questions of equal shape share a forward pass.

    Args:
        asks: All of them.
        kind_of: Equal for questions that can share a pass.
        generator: Of the order.
    """

    def __init__(self, asks: Sequence[Item], kind_of: Callable[[Item], Hashable], generator: random.Random) -> None:
        self.asks = tuple(asks)
        self._kind_of = kind_of
        self._generator = generator
        self._left: list[Item] = []

    def draw(self, count: int) -> list[Item]:
        """At most so many questions, all different unless the deck ends among them."""
        drawn = []
        for _ in range(min(count, len(self.asks))):
            self._left = self._left or self._shuffled()
            drawn.append(self._left.pop())
        return drawn

    def position(self) -> dict[str, Any]:
        """Where the deck stands, as JSON: numbers alone, no question."""
        number = {ask: index for index, ask in enumerate(self.asks)}
        return {"left": [number[ask] for ask in self._left], "generator": self._generator.getstate()}

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Stand where a deck of the same questions stood."""
        self._left = [self.asks[index] for index in position["left"]]
        version, words, gauss = position["generator"]
        self._generator.setstate((version, tuple(words), gauss))

    def _shuffled(self) -> list[Item]:
        kinds: dict[Hashable, list[Item]] = {}
        for ask in self._generator.sample(self.asks, len(self.asks)):
            kinds.setdefault(self._kind_of(ask), []).append(ask)
        hands = [kind[at : at + _HAND] for kind in kinds.values() for at in range(0, len(kind), _HAND)]
        self._generator.shuffle(hands)
        return [ask for hand in hands for ask in hand]


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
