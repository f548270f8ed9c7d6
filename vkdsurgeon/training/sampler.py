"""In which order examples are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

Item = TypeVar("Item")

# Neighbours of a grouped sampler that share a forward pass.
_GROUP = 8


class Sampler(Generic[Item]):
    """Items drawn without end: each once, in random order, before any is drawn again.

    Args:
        items: Items to draw from.
        shuffle: Gives all items in a new order; called whenever all were drawn.
        left: The rest of an order that was begun before, next item first.
    """

    def __init__(
        self, items: Sequence[Item], shuffle: Callable[[Sequence[Item]], list[Item]], left: Sequence[Item] = ()
    ) -> None:
        self.items = items
        self._shuffle = shuffle
        self.left = list(left)

    def draw(self, count: int) -> list[Item]:
        """The next `count` items, or as many as there are; all different unless an order ends among them."""
        wanted = min(count, len(self.items))
        drawn: list[Item] = []
        while len(drawn) < wanted:
            self.left = self.left or self._shuffle(self.items)
            missing = wanted - len(drawn)
            drawn += self.left[:missing]
            del self.left[:missing]
        return drawn


def torch_shuffle(generator: torch.Generator) -> Callable[[Sequence[Item]], list[Item]]:
    """A shuffle by `torch.randperm`."""

    def shuffle(items: Sequence[Item]) -> list[Item]:
        return [items[position] for position in torch.randperm(len(items), generator=generator).tolist()]

    return shuffle


def random_shuffle(generator: random.Random) -> Callable[[Sequence[Item]], list[Item]]:
    """A shuffle by `random.Random.sample`."""

    def shuffle(items: Sequence[Item]) -> list[Item]:
        return generator.sample(items, len(items))

    return shuffle


class GroupedSampler(Sampler[Item]):
    """A sampler whose neighbours are of a kind, because only examples of equal shape share a forward pass.

    Args:
        items: Items to draw from; hashable and distinct.
        kind_of: Equal for items that can share a pass.
        generator: Source of the order.
    """

    def __init__(self, items: Sequence[Item], kind_of: Callable[[Item], Hashable], generator: random.Random) -> None:
        super().__init__(tuple(items), self._grouped)
        self._kind_of = kind_of
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        """The sampler's position, as JSON numbers; no item is in it."""
        number = {item: index for index, item in enumerate(self.items)}
        # Journals list the next item last.
        return {"left": [number[item] for item in reversed(self.left)], "generator": self._generator.getstate()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a sampler of the same items."""
        self.left = [self.items[index] for index in reversed(state["left"])]
        version, words, gauss = state["generator"]
        self._generator.setstate((version, tuple(words), gauss))

    def _grouped(self, items: Sequence[Item]) -> list[Item]:
        kinds: dict[Hashable, list[Item]] = {}
        for item in self._generator.sample(items, len(items)):
            kinds.setdefault(self._kind_of(item), []).append(item)
        groups = [kind[at : at + _GROUP] for kind in kinds.values() for at in range(0, len(kind), _GROUP)]
        self._generator.shuffle(groups)
        return [item for group in reversed(groups) for item in reversed(group)]
