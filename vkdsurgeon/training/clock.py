"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Clock:
    """Wall time per stage."""

    def __init__(self, laps: Mapping[str, float] | None = None) -> None:
        self.laps: dict[str, float] = dict(laps or {})
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End a stage and record its time."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now
