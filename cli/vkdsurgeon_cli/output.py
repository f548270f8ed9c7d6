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

from rich.console import Console
from rich.table import Table

_LOG_WIDTH = 140


class ProgressMode(str, Enum):
    """How progress is told on stderr; `auto` shows a line on a terminal and nothing elsewhere."""

    auto = "auto"
    jsonl = "jsonl"
    none = "none"


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
        if not self._stdout.is_terminal:
            # A log has no edge to wrap at; eighty columns would cut names and numbers.
            self._stdout.width = _LOG_WIDTH
        self._stderr = Console(stderr=True, soft_wrap=True, highlight=False)
        self._line_open = False
        self._last_shown = 0.0

    def document(self, data: Mapping[str, Any], table: Callable[[], Table | str] | None = None) -> None:
        """Print the result: `data` with `--json`, else what `table` renders (or nothing)."""
        self._close_line()
        if self.as_json:
            # Whole before the first byte, and in ASCII, so that no terminal's encoding can cut it short.
            text = json.dumps(data, indent=2, default=str)
            print(text, flush=True)
        elif table is not None:
            self._stdout.print(table())

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
            self._stderr.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A warning on stderr; never changes the exit status."""
        self._close_line()
        if self.mode is ProgressMode.jsonl:
            self._write_line({"event": "warning", "text": text})
        else:
            self._stderr.print(f"warning: {text}", style="yellow", markup=False)

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
        text = str(event.get("text", event.get("event", "")))
        self._stderr.file.write("\r\x1b[2K" + text[: max(self._stderr.width - 1, 20)])
        self._stderr.file.flush()
        self._line_open = True

    def _write_line(self, event: Mapping[str, Any]) -> None:
        sys.stderr.write(json.dumps(event, default=str, ensure_ascii=False) + "\n")
        sys.stderr.flush()

    def _close_line(self) -> None:
        if self._line_open:
            self._stderr.file.write("\n")
            self._line_open = False
