"""Seconds by stage of a step."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Stopwatch:
    """Seconds by stage; a GPU is waited for at both ends of a stage."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """The time, when the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for a stage."""
        started = self.now()
        yield
        self.seconds[name] += self.now() - started

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted for a stage."""

        def counted(*arguments: Any, **settings: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **settings)

        return counted


class Silent(Stopwatch):
    """Counts nothing and waits for nothing."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Do nothing but what is inside."""
        yield
