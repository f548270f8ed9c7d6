"""Several processes on this machine that call one function together."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as group

from vkdsurgeon.model.processes import Processes


def together(count: int, act: Callable[[Processes], Any]) -> list[Any]:
    """Fork so many processes, let each call a function in a gloo group, and give back what they returned, as JSON.

    A process that raised gives its message as `{"raised": ...}`, one that a signal ended minus the signal's number.
    """
    with tempfile.TemporaryDirectory() as folder:
        children = [_start(rank, count, act, Path(folder)) for rank in range(count)]
        return [_end(child, Path(folder) / str(rank)) for rank, child in enumerate(children)]


def _start(rank: int, count: int, act: Callable[[Processes], Any], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        signal.alarm(100)
        group.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
        try:
            found = act(Processes.of_group())
        except BaseException as error:
            traceback.print_exc()
            found = {"raised": f"{type(error).__name__}: {error}"}
        (folder / str(rank)).write_text(json.dumps(found))
    finally:
        os._exit(0)


def _end(child: int, said: Path) -> Any:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status else json.loads(said.read_text())


def raised(found: Sequence[Any]) -> list[str]:
    """What each process raised."""
    return [each["raised"] for each in found]
