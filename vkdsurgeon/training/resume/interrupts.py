"""Ctrl-C and a cancelled pipeline wait for the end of a step, so that no half-made step is ever saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """A context in which the first signal that would raise KeyboardInterrupt is noted, and the second raises it.

    Only signals whose handler is Python's own for Ctrl-C are taken over; whoever handles them otherwise knows why.

    Args:
        patience: Seconds after the first signal in which another one counts as the same.

    Attributes:
        pending: A signal came.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.pending = False
        self._patience, self._since = patience, 0.0
        self._taken: list[int] = []

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.default_int_handler:
                    self._taken.append(number)
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._taken:
            signal.signal(number, signal.default_int_handler)
        self._taken.clear()
        if self.pending and kind is None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending and time.monotonic() - self._since >= self._patience:
            raise KeyboardInterrupt
        if not self.pending:
            self.pending, self._since = True, time.monotonic()
