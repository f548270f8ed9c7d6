"""Ctrl-C and a cancelled pipeline wait for the end of a step, so that no half-made step is ever saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """A context in which the first signal that would raise KeyboardInterrupt is noted, and the second raises it.

    Only signals whose handler is Python's own for Ctrl-C are taken over; whoever handles them otherwise knows why.

    Attributes:
        pending: A signal came.
    """

    def __init__(self) -> None:
        self.pending = False
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
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
