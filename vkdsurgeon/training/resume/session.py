"""The journal of one `vkdsurgeon unlearn`, from the question whether there is one to the answer what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from vkdsurgeon.checkpoint.output import SLACK_BYTES
from vkdsurgeon.errors import Diverged, UserError
from vkdsurgeon.files.names import fitting
from vkdsurgeon.training.events import Event, Listener
from vkdsurgeon.training.resume.journal import Journal

_ENDING = ".journal"


class Asked(Protocol):
    """The part of a request that a journal needs."""

    @property
    def model(self) -> Path:
        """The checkpoint."""

    @property
    def out(self) -> Path | None:
        """The output."""

    @property
    def journal(self) -> Path | None:
        """The journal, if named."""

    @property
    def resume(self) -> bool:
        """Go on where there is something to go on with."""

    @property
    def checkpoint_minutes(self) -> float:
        """Least time between saves."""


def journal_of(asked: Asked) -> Path:
    """The path of a run's journal: `OUT.journal` beside the output, unless one is named."""
    if asked.journal is not None:
        return asked.journal
    assert asked.out is not None
    place = asked.out.resolve()
    return place.parent / f"{fitting(place, len(_ENDING))}{_ENDING}"


@contextmanager
def journalled(asked: Asked, room: int, listener: Listener) -> Iterator[Journal]:
    """The journal of a run, which says how to go on when the run ends early.

    Args:
        asked: The run.
        room: Bytes that its output will take.
        listener: Called with progress events.

    Raises:
        UserError: See `Journal`; or the time between saves is not valid.
    """
    minutes = asked.checkpoint_minutes
    if not (minutes >= 0 and math.isfinite(minutes)):
        raise UserError("not a time", where="`checkpoint_minutes`", value=minutes, expected="minutes, 0 or more")
    path = journal_of(asked)
    assert asked.out is not None
    apart = {"model": asked.model, "output": asked.out}
    beside = _same_disk(path.resolve().parent, asked.out.resolve().parent)
    journal = Journal(
        path,
        resume=asked.resume,
        apart_from=apart,
        minutes=minutes,
        # Room was looked for before the work; the journal must not be what takes it.
        reserve=room + SLACK_BYTES if beside else 0,
        disposable=asked.journal is None,
        warn=lambda text: listener(Event.warning(text)),
    )
    if asked.resume:
        text = f"resuming from {path}" if journal.resumed else f"no journal at {path}: a new run starts"
        listener(Event.note(text))
    try:
        yield journal
    except Diverged:
        journal.discard()
        raise
    except UserError:
        # What is wrong has to be put right first, and a journal that does not belong here is no help.
        raise
    except KeyboardInterrupt as stop:
        if journal.saved:
            stop.args = (f"progress is saved in {path}: add `resume`",)
        raise
    except BaseException:
        if journal.saved:
            listener(Event.note(f"progress is saved in {path}: add `resume` to go on from there"))
        raise
    finally:
        journal.close()


def left_behind(asked: Asked, inputs: Callable[[bytes], Mapping[str, Any]], *, remove: bool) -> Path | None:
    """The journal that a run whose output is there left behind, because it was killed just then.

    Args:
        asked: The run.
        inputs: Makes its inputs from the salt of a journal.
        remove: Whether there is nothing to go on with, so that it goes.

    Returns:
        Its directory where it stays; None where there is none of this run.
    """
    path = journal_of(asked)
    if not path.is_dir():
        return None
    try:
        apart = {} if asked.out is None else {"model": asked.model, "output": asked.out}
        journal = Journal(
            path,
            resume=True,
            apart_from=apart,
            minutes=asked.checkpoint_minutes,
            disposable=asked.journal is None,
            warn=lambda _: None,
        )
    except UserError:
        # Somebody else's, or damaged: no business of a run that is done.
        return None
    try:
        journal.match(inputs(journal.salt))
        if remove:
            journal.discard()
    except UserError:
        return None
    finally:
        journal.close()
    return path if not remove and journal.saved else None


def _same_disk(left: Path, right: Path) -> bool:
    return left.is_dir() and right.is_dir() and left.stat().st_dev == right.stat().st_dev
