"""stdout and stderr of the process, made so that no fault of theirs decides how a run ends.

A reader that has left, a stream that was closed from the start and letters that the encoding lacks change no status;
and under `--progress jsonl` every line of stderr is a JSON object, whoever wrote it.
"""

from __future__ import annotations

import itertools
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, TextIO

from vkdsurgeon_cli.pump import Pump, as_event
from vkdsurgeon_cli.pump import event_line as event_line


class ProgressMode(str, Enum):
    """How progress is told on stderr: a bar on a terminal and lines in a log, JSON lines, or not at all."""

    auto = "auto"
    jsonl = "jsonl"
    none = "none"


class Steady:
    """A text stream that outlives its reader.

    Args:
        inner: The stream; None where it was closed before the process began.
    """

    def __init__(self, inner: TextIO | None) -> None:
        self.inner: Any = inner if inner is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(self.inner, "reconfigure"):
            # What an encoding lacks is spelt out; a name that is no text is one of these. A stream whose descriptor
            # was exchanged under it refuses to be reconfigured; `write` helps itself there.
            with suppress(OSError):
                self.inner.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """As every stream; what nobody reads is gone."""
        try:
            self._try(lambda: self.inner.write(text))
        except UnicodeEncodeError:
            encoding = getattr(self.inner, "encoding", None) or "ascii"
            spelt = text.encode(encoding, "backslashreplace").decode(encoding)
            self._try(lambda: self.inner.write(spelt))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """As every stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As every stream."""
        self._try(self.inner.flush)

    def _try(self, act: Any) -> None:
        try:
            act()
        except BrokenPipeError:
            # The rest, and what the interpreter flushes at its end, goes where it disturbs nobody.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.inner.fileno())
            os.close(devnull)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Lines(Steady):
    """stderr as JSON lines: what is one passes, any other line becomes the `text` of an event `log`."""

    def __init__(self, inner: TextIO | None) -> None:
        super().__init__(inner)
        self._begun = ""
        self._direct = self.inner
        self._pump: Pump | None = None

    def divert(self) -> None:
        """Catch what is written to descriptor 2 past Python as well, until `finish`."""
        # Where that cannot be had, lines of C libraries are the only ones that are not caught.
        with suppress(OSError, ValueError, AttributeError):
            if self.inner.fileno() == 2:
                self.inner.flush()
                self._pump = Pump()
                self.inner = self._pump.stream

    def write(self, text: str) -> int:
        """Take text of any kind; whole lines go out."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            super().write(as_event(line))
        return len(text)

    def finish(self) -> None:
        """Let out a line that was begun and not ended."""
        if self._begun:
            self.write("\n")
        self.flush()
        if self._pump is not None:
            pump, self._pump, self.inner = self._pump, None, self._direct
            pump.stop()

    def isatty(self) -> bool:
        """Never: lines are for programs."""
        return False


def steady() -> None:
    """Make the process's streams steady; once, before anything is written."""
    sys.stdout = Steady(sys.stdout)
    sys.stderr = Steady(sys.stderr)


def write_lines() -> None:
    """Make stderr JSON lines, for `--progress jsonl`."""
    if not isinstance(sys.stderr, Lines):
        inner: Any = sys.stderr
        lines = Lines(inner.inner if isinstance(inner, Steady) else inner)
        lines.divert()
        sys.stderr = lines


def hush(*, stdout: bool = True) -> None:
    """Let nothing more be heard of this process on stderr, nor on stdout unless that is to stay."""
    finish()
    sys.stderr = Steady(None)
    if stdout:
        sys.stdout = Steady(None)


def speak() -> None:
    """Let stderr be heard again, after `hush`."""
    sys.stderr = Steady(sys.__stderr__)


def finish() -> None:
    """Flush what was written; a reader that has left changes nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Lines):
            stream.finish()
        elif stream is not None:
            stream.flush()


def wants_lines(arguments: Sequence[str]) -> bool:
    """Whether `--progress jsonl` is among the words of a command line."""
    pairs = itertools.pairwise([*arguments, ""])
    return any(word == "--progress=jsonl" or (word == "--progress" and after == "jsonl") for word, after in pairs)


def printable(text: str) -> str:
    """Text without characters that a terminal would act on; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or not _acts(letter) else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _acts(letter: str) -> bool:
    # Controls, among them ESC, and what turns the direction of writing.
    return unicodedata.category(letter) == "Cc" or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
