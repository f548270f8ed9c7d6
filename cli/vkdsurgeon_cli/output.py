"""The one way out: data on stdout, everything else on stderr.

People get tables and a progress bar on a terminal; pipelines get one JSON document (`--json`) and JSON lines
(`--progress jsonl`). Nothing here ever asks a question.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table

from vkdsurgeon_cli.streams import printable

_LOG_WIDTH = 140


class ProgressMode(str, Enum):
    """How progress is told on stderr; `auto` shows a line on a terminal and nothing elsewhere."""

    auto = "auto"
    jsonl = "jsonl"
    none = "none"


class _Harmless(RenderHook):
    """Names and answers are other people's text, and none of it may act on a terminal."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap everything that is printed."""
        return [_Plain(each) for each in renderables]


class _Plain:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class Output:
    """One command's sink.

    Args:
        as_json: stdout carries exactly one JSON document.
        progress: How progress is told.
    """

    def __init__(self, as_json: bool = False, progress: ProgressMode = ProgressMode.auto) -> None:
        self.as_json = as_json
        self.mode = progress
        self._stdout = Console(soft_wrap=True, highlight=False)
        self._stdout.push_render_hook(_Harmless())
        if not self._stdout.is_terminal:
            # A log has no edge to wrap at; eighty columns would cut names and numbers.
            self._stdout.width = _LOG_WIDTH
        self._stderr = Console(stderr=True, soft_wrap=True, highlight=False)
        self._line_open = False
        self._last_shown = 0.0

    def document(
        self, data: Mapping[str, Any], table: Callable[[], Table | str] | None = None, *, kept: object = None
    ) -> None:
        """Print the result: `data` with `--json`, else what `table` renders (or nothing).

        Args:
            data: The document.
            table: Makes what people read.
            kept: Where the result lies besides; then a stdout that cannot be written is told, and fails nothing.
        """
        try:
            self._print(data, table)
        except OSError as error:
            if kept is None:
                raise
            self.warn(f"the result could not be printed: {error.strerror or error}; it is in {kept}")

    def _print(self, data: Mapping[str, Any], table: Callable[[], Table | str] | None) -> None:
        self._close_line()
        if self.as_json:
            # Whole before the first byte, and in ASCII, so that no terminal's encoding can cut it short.
            text = json.dumps(data, indent=2, default=str)
            print(text, flush=True)
        elif table is not None:
            self._stdout.print(table())
            self._stdout.file.flush()

    def rescue(self, data: Mapping[str, Any]) -> None:
        """Print the result as JSON, whatever was asked for: its file could not be written, and it must be somewhere."""
        self.as_json = True
        self.document(data)

    def note(self, text: str) -> None:
        """Tell people something on stderr."""
        self._close_line()
        if self.mode is ProgressMode.jsonl:
            self._write_line({"event": "note", "text": text})
        else:
            self._stderr.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """A warning on stderr; never changes the exit status."""
        self._close_line()
        if self.mode is ProgressMode.jsonl:
            self._write_line({"event": "warning", "text": text})
        else:
            self._stderr.print(printable(f"warning: {text}"), style="yellow", markup=False)

    def progress(self, event: Mapping[str, Any]) -> None:
        """One progress event: a flat mapping with `event`, and numbers; `text` is what people see."""
        if self.mode is ProgressMode.jsonl:
            self._write_line({key: value for key, value in event.items() if key not in ("text", "last")})
            return
        if self.mode is ProgressMode.none or not self._stderr.is_terminal:
            return
        now = time.monotonic()
        if now - self._last_shown < 0.1 and not event.get("last"):
            return
        self._last_shown = now
        text = printable(str(event.get("text", event.get("event", ""))))
        self._stderr.file.write("\r\x1b[2K" + text[: max(self._stderr.width - 1, 20)])
        self._stderr.file.flush()
        self._line_open = True

    def _write_line(self, event: Mapping[str, Any]) -> None:
        sys.stderr.write(json.dumps(event, default=str) + "\n")
        sys.stderr.flush()

    def _close_line(self) -> None:
        if self._line_open:
            self._stderr.file.write("\n")
            self._line_open = False
