"""Threads that decode and prepare images while nothing else needs the cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MOST = 8
# Results that may lie ready before they are taken: images beyond the cache's bound are large.
_WINDOW = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """All cores but one, 8 at most, that this process may use; divided among the processes of this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    together = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(_MOST, cores // max(int(together) if together.isdecimal() else 1, 1) - 1))


def in_order(make: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """What is made of each item, in order; as one thread would, down to which error is raised first.

    Args:
        make: Called once per item, by any thread.
        items: The items.
        threads: How many work; 1 uses none but the caller's own.
    """
    if threads < 2 or len(items) < 2:
        yield from map(make, items)
        return
    # The first one makes whatever is made once, such as the image processor.
    yield make(items[0])
    with ThreadPoolExecutor(threads, "vkdsurgeon-image") as pool:
        for start in range(1, len(items), _WINDOW):
            yield from pool.map(make, items[start : start + _WINDOW])
