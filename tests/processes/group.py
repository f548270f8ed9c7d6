"""Several processes on this machine that make one run together; forked, since libraries take seconds to load."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch.distributed as group
from vkdsurgeon_cli.main import main

from vkdsurgeon.model.processes import Processes


class Ended(NamedTuple):
    """How a process ended: its status, minus the number of a signal, and what it said."""

    status: int
    out: str
    err: str


def together(count: int, act: Callable[[Processes], Any]) -> list[Any]:
    """What a function returns, as JSON, when each of so many processes calls it in a gloo group."""

    def call(rank: int, folder: Path) -> None:
        store = f"file://{folder}/store"
        group.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
        print(json.dumps(act(Processes.of_group())), flush=True)
        os._exit(0)

    ended = _each(count, call)
    assert all(each.status == 0 for each in ended), ended
    return [json.loads(each.out.splitlines()[-1]) for each in ended]


def launched(
    count: int, words: Callable[[int], list[str]], prepare: Callable[[int], None] = lambda rank: None
) -> list[Ended]:
    """Run a command line as a launcher would.

    Args:
        count: How many processes.
        words: The command line of each.
        prepare: Called in each before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(rank: int, folder: Path) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        prepare(rank)
        main(words(rank))

    return _each(count, call)


def _each(count: int, call: Callable[[int, Path], None]) -> list[Ended]:
    # Not `TemporaryDirectory`, which each child would remove at its end.
    folder = Path(tempfile.mkdtemp())
    children = [os.fork() or _child(call, rank, folder) for rank in range(count)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [[(folder / f"{rank}.{number}").read_text() for number in (1, 2)] for rank in range(count)]
    shutil.rmtree(folder)
    return [Ended(status, *texts) for status, texts in zip(statuses, said, strict=True)]


def _child(call: Callable[[int, Path], None], rank: int, folder: Path) -> NoReturn:
    try:
        for number in (1, 2):
            os.dup2(os.open(folder / f"{rank}.{number}", os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.__stderr__ = sys.stderr  # type: ignore[misc]
        call(rank, folder)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)
