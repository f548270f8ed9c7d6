"""A campaign: a run is killed, ended by a signal, or finds the disk full or failing, at one of its acts on files after
another; is killed at random moments; and may write no file longer than so much.

In CI one of each; with `-m campaign` every act, whose number is printed.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import main

from tests.training.resume.runs import Place, files, place

# Where in a run the one of CI is; the signal comes when the output has its name and the journal is still there.
ONE = {"kill": 0.6, "term": 0.97, "full": 0.8, "failing": 0.7}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ACTS = {"os.rename", "os.mkdir", "os.link", "os.chmod", "os.truncate", "os.remove", "os.rmdir"}


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _failing() -> None:
    raise OSError(errno.EIO, "Input/output error")


FAULTS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "full": _full,
    "failing": _failing,
}
TOLD = {"full": ("disk is full", "No space left"), "failing": ("Input/output error",)}


def _run(
    here: Place,
    folder: Path,
    fault: Callable[[], None] | None = None,
    at: int = 0,
    *,
    killed_after: float | None = None,
    longest: int | None = None,
) -> tuple[int, int, str]:
    """One run in a process of its own, with something going wrong at its n-th act on a file below the folder.

    Args:
        here: Model and sets.
        folder: Where its output goes.
        fault: What goes wrong.
        at: At which act.
        killed_after: Seconds after which it is killed, whatever it does.
        longest: Bytes that no file may exceed: writing on fails.

    Returns:
        Its status (negative after a signal), how many acts there were, and what it said.
    """
    out, said = folder / "out", folder.parent / f"{folder.name}.said"
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    words = ["unlearn", str(here.model), "--forget", str(here.forget), "--retain", str(here.retain), "-o", str(out)]
    words += ["--steps", "1", "--resume", "--checkpoint-minutes", "0", "--set", "stand_ins=1"]
    words += ["--set", "forget_batch=2", "--set", "retain_batch=2"]
    words += ["--set", "forget_reading=1", "--set", "retain_reading=1", "--set", "retain_drift=9"]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.close(reader)
            if longest is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))
            stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            tempfile.tempdir = str(folder / "tmp")
            sys.addaudithook(_Hook(folder, writer, fault, at))
            try:
                main(words)
            except SystemExit as end:
                status = int(end.code or 0)
        finally:
            os._exit(status)
    os.close(writer)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        acts = len(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # Killed at once, it said nothing.
    return status, acts, said.read_text() if said.exists() else ""


class _Hook:
    """Counts acts on files, and lets the fault happen at one of them."""

    def __init__(self, folder: Path, writer: int, fault: Callable[[], None] | None, at: int) -> None:
        self.folder, self.writer, self.fault, self.at, self.seen = str(folder), writer, fault, at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITING:
                return
        elif event not in _ACTS:
            return
        if not isinstance(arguments[0], (str, bytes)) or not os.fsdecode(arguments[0]).startswith(self.folder):
            return
        self.seen += 1
        os.write(self.writer, b".")
        if self.fault is not None and self.seen == self.at:
            self.fault()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("place") / "here")


@pytest.fixture(scope="module")
def undisturbed(here: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    """How many acts a run has, and what it writes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    status, acts, said = _run(here, folder)
    assert status == 0, said
    return acts, _weights(folder / "out")


def _weights(folder: Path) -> dict[str, bytes]:
    """All but the record, which has the hour in it."""
    return {name: content for name, content in files(folder).items() if name != "vkdsurgeon.json"}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.campaign)], ids=["one", "every"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_is_stopped_anywhere(
    here: Place, undisturbed: tuple[int, dict[str, bytes]], tmp_path: Path, fault: str, every: bool
) -> None:
    acts, whole = undisturbed
    base = files(here.model)
    outcomes: Counter[str] = Counter()
    for at in range(1, acts + 1) if every else [round(acts * ONE[fault])]:
        folder = tmp_path / f"{fault}-{at}"
        out = folder / "out"
        status, _, said = _run(here, folder, FAULTS[fault], at)
        told = f"{fault} at act {at} of {acts}: status {status}\n{said}"
        assert "Traceback" not in said, told
        assert status in {"kill": (-9,), "term": (0, 130)}.get(fault, (0, 1)), told
        if fault == "term":
            assert ("No output was written" in said) == (not out.exists()), told
        if fault in TOLD:
            assert out.exists() == (status == 0), told
        if fault in TOLD and status:
            assert any(words in said for words in TOLD[fault]), told
        outcomes[f"status {status}, {'a whole output' if out.exists() else 'no output'}"] += 1
        assert files(here.model) == base, told
        _ends(here, folder, whole, told)
    print(f"{fault}: {sum(outcomes.values())} of {acts} acts: {dict(outcomes)}")


def _ends(here: Place, folder: Path, whole: dict[str, bytes], told: str) -> None:
    """Whatever is left of a run, the same command ends the work, and clears up."""
    out = folder / "out"
    if out.exists():
        assert _weights(out) == whole, told
    status, _, said = _run(here, folder)
    assert status == 0, f"again after {told}\n{said}"
    assert _weights(out) == whole, told
    assert not [name for name in os.listdir(folder) if name not in ("out", "tmp")], told
    assert not os.listdir(folder / "tmp"), told
    shutil.rmtree(folder)


@pytest.mark.parametrize("times", [1, pytest.param(100, marks=pytest.mark.campaign)])
def test_a_run_that_is_killed_at_a_random_moment(
    here: Place, undisturbed: tuple[int, dict[str, bytes]], tmp_path: Path, times: int
) -> None:
    begun = time.monotonic()
    assert _run(here, tmp_path / "timed")[0] == 0
    seconds, draw = time.monotonic() - begun, random.Random(0)
    outcomes: Counter[int] = Counter()
    # A run may have ended before its moment comes; then another is drawn.
    while outcomes[-9] < times:
        folder = tmp_path / f"{outcomes.total()}"
        status, _, said = _run(here, folder, killed_after=draw.uniform(0, seconds))
        assert status in (-9, 0), said
        outcomes[status] += 1
        _ends(here, folder, undisturbed[1], f"killed, number {outcomes.total()}: {said}")
    print(f"{times} random moments: {dict(outcomes)}")


@pytest.mark.parametrize(
    "share", [0.5, *(pytest.param(each / 20, marks=pytest.mark.campaign) for each in range(1, 20) if each != 10)]
)
def test_a_write_that_fails_midway(
    here: Place, undisturbed: tuple[int, dict[str, bytes]], tmp_path: Path, share: float
) -> None:
    """Not as a file is opened, but in the middle of writing it."""
    longest = round(share * max(map(len, undisturbed[1].values())))
    status, _, said = _run(here, tmp_path / "run", longest=longest)
    assert status == 1, said
    assert "Traceback" not in said
    assert "too large" in said
    assert not (tmp_path / "run" / "out").exists()
    _ends(here, tmp_path / "run", undisturbed[1], said)
