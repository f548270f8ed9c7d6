"""`--track`: the numbers of a run in TensorBoard, trackio or wandb, taken from the events that it tells.

Numbers alone leave the program: losses, metrics, roles and names of attacks; never a path, a subject or an answer.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from vkdsurgeon.errors import UserError

if TYPE_CHECKING:
    from vkdsurgeon.training.events import Event, Listener

_PROJECT = "vkdsurgeon"
# Counts, and what says which run a number belongs to.
_NO_METRIC = frozenset({"step", "steps", "seed", "seconds_left", "done", "total"})
_TELLING_APART = ("method", "model", "case", "seed")


def _off_stdout() -> contextlib.redirect_stdout[Any]:
    # Trackers print where to look, and stdout is for the result.
    return contextlib.redirect_stdout(sys.stderr)


class Tracker(Protocol):
    """Takes numbers until it is closed."""

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one step."""

    def close(self) -> None:
        """Write what is left."""


class _TensorBoard:
    def __init__(self, place: str | None) -> None:
        _library("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Made with the first number: a run that is refused leaves nothing.
        self._open = lambda: SummaryWriter(place)
        self._writer: Any = None

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            self._writer = self._open()
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Trackio:
    def __init__(self, place: str | None) -> None:
        self._tool, self._place, self._run = _library("trackio"), place or _PROJECT, False

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        if not self._run:
            self._tool.init(project=self._place)
            self._run = True
        self._tool.log(dict(numbers), step=step)

    def close(self) -> None:
        if self._run:
            self._tool.finish()


class _Wandb:
    def __init__(self, place: str | None) -> None:
        self._tool, self._place = _library("wandb"), place or _PROJECT
        self._run: Any = None

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        if self._run is None:
            self._run = self._begun()
        # Several kinds of steps count from 1 in one run, so each carries its own.
        family = next(iter(numbers)).rpartition("/")[0]
        self._run.define_metric(f"{family}/*", step_metric=f"{family}/step")
        self._run.log({**numbers, f"{family}/step": step})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _begun(self) -> Any:
        # The command line and the repository would go along, and paths with them. Nothing is sent unless asked for.
        settings = self._tool.Settings(
            console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True, silent=True
        )
        return self._tool.init(
            project=self._place, mode=os.environ.get("WANDB_MODE", "offline"), settings=settings, save_code=False
        )


_TRACKERS: dict[str, Callable[[str | None], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where the numbers of a run go besides."""

    track: Annotated[
        str | None,
        typer.Option("--track", metavar="WHERE", help="Log losses to tensorboard[:DIR], trackio[:PROJECT] or wandb."),
    ] = None

    @functools.cached_property
    def tracker(self) -> Tracker | None:
        """What takes the numbers; None where nobody asked.

        Raises:
            UserError: There is no such tracker, or its library is not installed.
        """
        if self.track is None:
            return None
        name, _, place = self.track.partition(":")
        if name not in _TRACKERS:
            raise UserError(
                "no such tracker", where="--track", value=self.track, expected=", ".join(_TRACKERS) + ", or NAME:PLACE"
            )
        return _TRACKERS[name](place or None)

    def heard_by(self, listener: Listener, warn: Callable[[str], None]) -> Listener:
        """The listener, with the numbers of what it hears logged besides.

        Args:
            listener: What the command itself does with events.
            warn: Told once if the tracker fails; the run goes on.

        Raises:
            UserError: As `tracker`.
        """
        tracker = self.tracker
        return listener if tracker is None else _Heard(listener, tracker, warn)

    def close(self) -> None:
        """End the log."""
        tracker = self.__dict__.get("tracker")
        if tracker is not None:
            with contextlib.suppress(Exception), _off_stdout():
                tracker.close()


class _Heard:
    def __init__(self, listener: Listener, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._listener, self._tracker, self._warn = listener, tracker, warn
        self._works = True

    def __call__(self, event: Event) -> None:
        self._listener(event)
        found = numbers_of(event) if self._works else None
        if found is None:
            return
        try:
            with _off_stdout():
                self._tracker.add(*found)
        except Exception as error:
            # Hours of training are worth more than their curve.
            self._works = False
            self._warn(f"--track stopped: {type(error).__name__}: {error}")


def numbers_of(event: Event) -> tuple[dict[str, float], int] | None:
    """The numbers of a step or a trial, by names that tell runs apart, and its count.

    Args:
        event: Any.

    Returns:
        None for an event that counts no steps.
    """
    facts: Mapping[str, Any] = event.facts
    step = facts.get("step")
    if event.kind == "trial":
        facts, step = event.subject.values, event.subject.number
    if not isinstance(step, int):
        return None
    family = "/".join([event.kind.replace(" ", "_"), *(str(facts[each]) for each in _TELLING_APART if each in facts)])
    numbers = {
        f"{family}/{name}": float(value)
        for name, value in facts.items()
        if name not in _NO_METRIC and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return (numbers, step) if numbers else None


def _library(name: str) -> Any:
    from vkdsurgeon.files.optional import optional

    return optional(name, name, f"--track {name}", where="--track")
