"""Joining the other processes of a launcher by the variables of torchrun's contract, and noticing when one is lost.

RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and, for the GPU, LOCAL_RANK: whoever sets these can be the launcher.
A process that ends closes its connections, which the others notice when they next exchange something. That may be long
after, and a machine that vanishes closes nothing; so each process counts up a number that the others watch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as group

from vkdsurgeon.errors import UserError
from vkdsurgeon.model.processes import LOST, Processes

# How long all processes may take to start, and one to wait for another that lives.
_START, _WAIT = timedelta(minutes=5), timedelta(days=7)
_BEAT_SECONDS, _LOST_SECONDS = 5.0, 45.0


class Launched:
    """The processes that a launcher has started, as one of them sees them.

    Args:
        store: A key-value store that all of them reach.
        processes: Number of this one, and how many there are.
    """

    def __init__(self, store: Any, processes: Processes) -> None:
        self.processes = processes
        self._store = store
        self._over = threading.Event()

    def failed(self, error: BaseException) -> bool:
        """Note a failure; whether it is this process's to tell: the first one is the cause of the others."""
        if isinstance(error, KeyboardInterrupt):
            return self.processes.first and self._failures(0) == 0
        return self._failures(1) == 1

    def watch(self) -> None:
        """Count up, and end the process when another one no longer does, until `end`."""
        heard = {rank: (0, time.monotonic()) for rank in range(self.processes.count) if rank != self.processes.rank}
        # A connection of its own: the other one may be waiting for something.
        store = self._store.clone()
        gone = False
        while not gone and not self._over.wait(_BEAT_SECONDS):
            try:
                store.add(f"beat {self.processes.rank}", 1)
                for rank, (beats, _) in list(heard.items()):
                    if (found := store.add(f"beat {rank}", 0)) != beats:
                        heard[rank] = found, time.monotonic()
                gone = any(time.monotonic() - last > _LOST_SECONDS for _, last in heard.values())
            except RuntimeError:
                # The store goes with the process that holds it, which may have come to its end as this one does.
                gone = not self._over.wait(_BEAT_SECONDS)
        if gone:
            self._end_at_once()

    def end(self) -> None:
        """Watch no more."""
        self._over.set()

    def _end_at_once(self) -> None:
        if self._failures(1) == 1:
            os.write(2, f"failed: {LOST}\n".encode())
        # What waits for the lost process may not be ended otherwise; output and journal are whole at any moment.
        os._exit(1)

    def _failures(self, more: int) -> int:
        try:
            return int(self._store.add("failures", more))
        except RuntimeError:
            return more


@contextmanager
def joined() -> Iterator[Launched]:
    """The processes that the variables of this one describe, joined until it ends.

    Gradients travel by NCCL where there is a GPU, all else by gloo. Where another process is lost within the block,
    this one ends within a minute, with status 1 if nothing else ends it.

    Raises:
        UserError: A variable is missing, or the others do not come.
        SurgeryError: Another process was lost.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            "a variable that goes with WORLD_SIZE is not set",
            where="environment",
            value=missing[0],
            expected="the variables that torchrun sets",
            remedy="start with torchrun; or unset WORLD_SIZE, for one process",
        )
    try:
        store, rank, count = next(iter(group.rendezvous("env://", timeout=_START)))
        if cuda := torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        own = group.PrefixStore("run", store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        group.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other: {str(error).splitlines()[0]}",
            where="environment",
            value=f"RANK {os.environ['RANK']} of {os.environ['WORLD_SIZE']}",
            expected=f"all of them to reach {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        ) from error
    launched = Launched(store, Processes.of_group())
    threading.Thread(target=launched.watch, daemon=True).start()
    try:
        yield launched
        # The process that holds the store must not end before the others are done.
        launched.processes.totals([0])
    finally:
        launched.end()
