"""In which order things are drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def endless(items: Sequence[Item], generator: random.Random) -> Iterator[Item]:
    """Items without end, shuffled: each is drawn once before any is drawn again."""
    while True:
        yield from generator.sample(items, len(items))
