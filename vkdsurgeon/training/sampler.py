"""In which order things are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

# Neighbours in a deck that share a forward pass.
_HAND = 8


def endless(items: Sequence[Item], generator: random.Random) -> Iterator[Item]:
    """Items without end, shuffled: each is drawn once before any is drawn again."""
    while True:
        yield from generator.sample(items, len(items))


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
