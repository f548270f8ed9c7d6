"""The one way out: data on stdout, everything else on stderr.

People get tables and a progress bar on a terminal; pipelines get one JSON document (`--json`) and JSON lines
(`--progress jsonl`). Nothing here ever asks a question.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

from vkdsurgeon.results.envelope import enveloped
from vkdsurgeon_cli.naming import with_options
from vkdsurgeon_cli.progress import display_of
from vkdsurgeon_cli.streams import ProgressMode, event_line, printable

# What a log and a narrow terminal have.
COLUMNS = 80
_WIDE = 1000


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
        wide: Tables show all their columns, however long the lines get.
    """

    def __init__(
        self, as_json: bool = False, progress: ProgressMode = ProgressMode.auto, *, wide: bool = False
    ) -> None:
        self.as_json = as_json
        self.mode = progress
        self._stdout = Console(soft_wrap=True, highlight=False)
        self._stdout.push_render_hook(_Harmless())
        self.columns = _WIDE if wide else self._stdout.width if self._stdout.is_terminal else COLUMNS
        self._stdout.width = self.columns
        self._stderr = Console(stderr=True, soft_wrap=True, highlight=False)
        self._display = display_of(progress, self._stderr)

    def document(
        self, data: Mapping[str, Any], table: Callable[[], RenderableType] | None = None, *, kept: object = None
    ) -> None:
        """Print the result: `data` in its envelope with `--json`, else what `table` renders (or nothing).

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

    def _print(self, data: Mapping[str, Any], table: Callable[[], RenderableType] | None) -> None:
        self.close()
        if self.as_json:
            # Whole before the first byte, and in ASCII, so that no terminal's encoding can cut it short.
            text = json.dumps(enveloped(data), indent=2, default=str)
            print(text, flush=True)
        elif table is not None:
            shown = table()
            # Text of its own lines, such as YAML, stays as it is; sentences wrap, and what cannot wrap is not cut.
            self._stdout.print(shown, soft_wrap=isinstance(shown, str), crop=False)
            self._stdout.file.flush()

    def rescue(self, data: Mapping[str, Any]) -> None:
        """Print the result as JSON, whatever was asked for: its file could not be written, and it must be somewhere."""
        self.as_json = True
        self.document(data)

    def begin(self, stage: str) -> None:
        """Show at once that work has begun: libraries alone take seconds to load."""
        self.progress({"event": "stage", "stage": stage})

    def note(self, text: str) -> None:
        """Tell people something on stderr."""
        text = with_options(text)
        if self.mode is ProgressMode.jsonl:
            self._write_line({"event": "note", "text": text})
        else:
            self._stderr.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """A warning on stderr; never changes the exit status."""
        text = with_options(text)
        if self.mode is ProgressMode.jsonl:
            self._write_line({"event": "warning", "text": text})
        else:
            self._stderr.print(printable(f"warning: {text}"), style="yellow", markup=False)

    def progress(self, event: Mapping[str, Any]) -> None:
        """One progress event: a flat mapping with `event`, and numbers; `text` is what people see."""
        self._display.show(event)

    def heard(self, event: Mapping[str, Any]) -> None:
        """Any event: notes and warnings as sentences, the rest as progress."""
        told = {"note": self.note, "warning": self.warn}.get(str(event["event"]))
        if told is None:
            self.progress(event)
        else:
            told(str(event["text"]))

    def close(self) -> None:
        """Take progress off the terminal."""
        self._display.close()

    def _write_line(self, event: Mapping[str, Any]) -> None:
        sys.stderr.write(event_line(event))
        sys.stderr.flush()
