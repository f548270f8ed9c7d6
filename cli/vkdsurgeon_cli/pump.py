"""Carries stderr under `--progress jsonl`: the one writer, so that every line is whole and JSON, whoever wrote it.

Libraries in C write to descriptor 2 themselves, past Python, so there it leads into a pipe. What reads the pipe is a
process of its own: a thread could not read while such a library holds the interpreter's lock and waits for room in the
pipe, and the last words of a process that crashes would be lost. It imports nothing of ours and starts fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

# Longer lines of others are broken, so that somebody who never ends one takes no memory.
_LONGEST = 1 << 16
_SECONDS = 5.0


def event_line(event: Mapping[str, Any]) -> str:
    """An event as a line of JSON, with the time after its name.

    Args:
        event: Has `event`, its name.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    rest = {key: value for key, value in event.items() if key != "event"}
    return json.dumps({"event": event["event"], "time": now, **rest}, default=str) + "\n"


def as_event(line: str) -> str:
    """Any line as a line of JSON: an event passes, other text becomes the `text` of an event `log`, blanks go.

    Args:
        line: Without its end.
    """
    if not line.strip():
        return ""
    return line + "\n" if _is_event(line) else event_line({"event": "log", "text": line})


def _is_event(line: str) -> bool:
    if not line.startswith('{"event": '):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Pump:
    """Descriptor 2 led through a process that makes lines of JSON, until `stop`.

    Attributes:
        stream: Where this process writes lines that are JSON already.

    Raises:
        OSError: No process or no pipe could be had; descriptor 2 is as it was.
    """

    def __init__(self) -> None:
        self._real = os.dup(2)
        opened = [self._real]
        try:
            ours, ours_in = os.pipe()
            opened += [ours, ours_in]
            others, others_in = os.pipe()
            opened += [others, others_in]
            # A session of its own: Ctrl-C is for who writes, and its last lines are still to be carried.
            self._process = subprocess.Popen(
                [sys.executable, "-IS", __file__, str(ours)],
                stdin=others, stdout=self._real, stderr=subprocess.DEVNULL, pass_fds=[ours], start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError):
            for descriptor in opened:
                os.close(descriptor)
            raise
        os.dup2(others_in, 2)
        for descriptor in (ours, others, others_in):
            os.close(descriptor)
        self.stream: TextIO = os.fdopen(ours_in, "w", buffering=1, encoding="utf-8", errors="backslashreplace")

    def stop(self) -> None:
        """Let everything out, and lead descriptor 2 where it led before."""
        os.dup2(self._real, 2)
        os.close(self._real)
        with contextlib.suppress(OSError):
            self.stream.close()
        # Whoever reads may be slow; the rest gets to them after this process as well.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS)


def carry(ours: int, others: int, out: int) -> None:
    """Carry lines until `ours` ends and `others` has nothing more.

    Args:
        ours: Brings lines of JSON.
        others: Brings anything; its reading end belongs to this process alone.
        out: Takes the lines; when it takes no more, they are dropped, so that nobody waits.
    """
    os.set_blocking(others, False)
    begun = {ours: b"", others: b""}
    with selectors.DefaultSelector() as watched:
        for descriptor in begun:
            watched.register(descriptor, selectors.EVENT_READ)
        while begun:
            # Those whom a process started may hold their end for long after it: nobody waits for them.
            for descriptor in [key.fd for key, _ in watched.select(None if ours in begun else 0)] or [others]:
                data = _read(descriptor)
                *lines, rest = (begun[descriptor] + data).split(b"\n")
                if rest and (not data or (descriptor == others and len(rest) > _LONGEST)):
                    lines, rest = [*lines, rest], b""
                begun[descriptor] = rest
                text = b"".join(_line(line, known=descriptor == ours) for line in lines)
                if text:
                    out = _write(out, text)
                if not data:
                    watched.unregister(descriptor)
                    del begun[descriptor]


def _line(line: bytes, *, known: bool) -> bytes:
    return line + b"\n" if known else as_event(line.decode("utf-8", "backslashreplace")).encode("utf-8")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def _write(out: int, data: bytes) -> int:
    while data:
        try:
            data = data[os.write(out, data) :]
        except BlockingIOError:
            select.select([], [out], [])
        except OSError:
            return os.open(os.devnull, os.O_WRONLY)
    return out


if __name__ == "__main__":
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # It ends with those whose lines it carries, and they have something to say about these.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    carry(int(sys.argv[1]), 0, 1)
