"""Runs a worker process and reads its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.training.events import Event, Listener

if TYPE_CHECKING:
    from vkdsurgeon.comparison.worker import RunSpec


def send(spec: RunSpec, listener: Listener) -> dict[str, Any]:
    """Run a spec in a process of its own.

    Args:
        spec: What to do.
        listener: Called with progress events.

    Returns:
        The fields of `worker.RunCost`.

    Raises:
        UserError: The run refused its input.
        SurgeryError: It failed, or the process died.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "vkdsurgeon.comparison.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
    )
    # What libraries print there goes the way of our own stderr, which may be JSON lines.
    relay = threading.Thread(target=_relay, args=(process.stderr,), daemon=True)
    relay.start()
    assert process.stdin is not None
    assert process.stdout is not None
    last: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(asdict(spec)))
        process.stdin.close()
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] not in ("done", "error"):
                kind, text = last.pop("event"), last.pop("text")
                listener(Event(kind, text, last))
        status = process.wait()
    finally:
        # An interrupted comparison leaves no worker behind.
        if process.poll() is None:
            process.terminate()
            process.wait()
        relay.join(timeout=5)
    event, kind = last.pop("event", None), last.pop("kind", None)
    if event == "done":
        return last
    if event == "error" and kind == "user":
        raise UserError.of({**last, "what": f"{spec.method}: {last['what']}"})
    raise SurgeryError(
        f"{spec.method}: {last['what'] if event == 'error' else f'the run ended with status {status}, see above'}"
    )


def _relay(lines: IO[str] | None) -> None:
    for line in lines or ():
        sys.stderr.write(line)
        sys.stderr.flush()
