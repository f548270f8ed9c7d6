"""How progress is shown: a bar on a terminal, a line every half minute in a log, JSON lines, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from vkdsurgeon_cli.streams import ProgressMode, event_line, printable

LOG_SECONDS = 30.0
_BAR, _NARROW = 20, 64
# What a bar may say besides its counts has a place of its own in these.
_TITLES = {"step": "training", "decoder step": "decoder pass", "answers": "answering", "features": "features"}


@dataclass(frozen=True)
class Progressed:
    """One event of a run, as people read it.

    Attributes:
        stage: What is being done.
        done: How much of it; None where it is not counted.
        total: Out of how much.
        seconds_left: As the run itself says; None where it does not.
        detail: Losses and the like, which are shortened first.
    """

    stage: str
    done: int | None = None
    total: int | None = None
    seconds_left: float | None = None
    detail: str = ""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Progressed:
        """Read a flat event, in which counts are `done` and `total`, or `step` and `steps`."""
        name = str(event["event"])
        done, total = event.get("done", event.get("step")), event.get("total", event.get("steps"))
        counted = isinstance(done, int) and isinstance(total, int)
        detail = printable(str(event.get("text", "")))
        stage = str(event["stage"]) if "stage" in event else _TITLES.get(name) or detail or name
        return cls(
            stage=printable(stage),
            done=done if counted else None,
            total=total if counted else None,
            seconds_left=event.get("seconds_left"),
            detail="" if detail == stage else detail,
        )


class Display(Protocol):
    """Shows progress until it is closed."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the stream as it was; may be called more than once."""


class Silent:
    """Shows nothing."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class JsonLines:
    """One JSON object per event, with the time."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Write the event without what is for people alone."""
        sys.stderr.write(event_line({key: value for key, value in event.items() if key != "text"}))
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing is open."""


class LogLines:
    """A line at the start, and one every half minute as long as the work lasts, also where no event comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._latest: Progressed | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        """Remember the event; the first is written at once."""
        self._latest = Progressed.of(event)
        if self._thread is None:
            self._started = time.monotonic()
            self._console.print(f"{self._latest.stage} ...", markup=False)
            self._thread = threading.Thread(target=self._write_on, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write_on(self) -> None:
        while not self._ended.wait(LOG_SECONDS):
            if self._latest is not None:
                self._console.print(line_of(self._latest, time.monotonic() - self._started), markup=False)


class Bar:
    """A bar that never loses the time left: the middle of the line is what is shortened."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    def show(self, event: Mapping[str, Any]) -> None:
        """Move the bar on; a new stage starts a new one in its place."""
        told = Progressed.of(event)
        if self._progress is None:
            self._progress = _bar(self._console)
            self._progress.start()
        if self._task is None or told.stage != self._stage:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(told.stage, total=told.total)
            self._stage = told.stage
        self._progress.update(
            self._task, total=told.total, completed=told.done or 0, detail=told.detail, left=told.seconds_left
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


def display_of(mode: ProgressMode, console: Console) -> Display:
    """What shows progress in a mode on a stream."""
    if mode is ProgressMode.jsonl:
        return JsonLines()
    if mode is ProgressMode.none:
        return Silent()
    return Bar(console) if console.is_terminal else LogLines(console)


def line_of(told: Progressed, seconds: float) -> str:
    """One line of a log."""
    parts = [told.stage]
    if told.done is not None:
        parts = [f"{told.stage} {told.done}/{told.total}"]
    parts.append(f"{duration(seconds)} so far")
    if told.seconds_left is not None:
        parts.append(f"{duration(told.seconds_left)} left")
    if told.detail:
        parts.append(told.detail)
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people read them: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def shortened(text: str, width: int) -> str:
    """Text of at most `width` characters, with dots in place of its middle."""
    if len(text) <= width:
        return text
    if width <= 3:
        return text[: max(width, 0)]
    head = (width - 3 + 1) // 2
    tail = width - 3 - head
    return text[:head] + "..." + (text[-tail:] if tail else "")


def _bar(console: Console) -> Progress:
    bar = [BarColumn(bar_width=_BAR)] if console.width >= _NARROW else []
    tail = _Tail(console, table_column=Column(no_wrap=True, justify="right"))
    told = _Told(console, tail, _BAR + 1 if bar else 0, table_column=Column(no_wrap=True))
    return Progress(
        SpinnerColumn(), told, *bar, tail, console=console, transient=True, refresh_per_second=4, redirect_stdout=False
    )


class _Tail(ProgressColumn):
    """Count, rate and time left."""

    def __init__(self, console: Console, table_column: Column) -> None:
        super().__init__(table_column)
        self._console = console

    def render(self, task: Task) -> Text:
        """The text."""
        return Text(self.text(task))

    def text(self, task: Task) -> str:
        """What is known; on a terminal too narrow for all of it, the end: the time left."""
        if task.total is None:
            return duration(task.elapsed or 0.0)
        left = task.fields.get("left")
        left = task.time_remaining if left is None else left
        parts = [f"{int(task.completed)}/{int(task.total)}"]
        if task.speed:
            parts.append(f"{task.speed:.1f}/s" if task.speed >= 1 else f"{1 / task.speed:.1f} s each")
        if left is not None:
            parts.append(f"{duration(left)} left")
        while len(parts) > 1 and len("  ".join(parts)) > self._console.width - 3:
            parts.pop(0)
        return "  ".join(parts)


class _Told(ProgressColumn):
    """Stage and details, in the room that the rest leaves."""

    def __init__(self, console: Console, tail: _Tail, bar: int, table_column: Column) -> None:
        super().__init__(table_column)
        self._console, self._tail, self._bar = console, tail, bar

    def render(self, task: Task) -> Text:
        """The text."""
        detail = task.fields.get("detail", "")
        told = f"{task.description}  {detail}" if detail else task.description
        taken = 2 + self._bar + 1 + len(self._tail.text(task))
        return Text(shortened(told, self._console.width - taken))
