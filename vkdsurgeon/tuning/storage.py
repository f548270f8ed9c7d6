"""The trials on disk: appended as they happen, resumable after any end."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import alone_in
from vkdsurgeon.training.resume.interrupts import Interrupts
from vkdsurgeon.tuning.objective import OBJECTIVES

FILE = "journal.jsonl"
INPUTS, REASON, DRAW, SHARD, UNTOUCHED = "inputs", "reason", "draw", "shard", "untouched"
_STUDY = "tune"
# What the first entry of every journal says, and how it begins.
_FIRST = {"op_code": 0, "study_name": _STUDY, "directions": [1] * len(OBJECTIVES)}
_HEAD = b'{"op_code":0,"worker_id":"'
_MOST_BYTES = 1 << 20


class _WholeEntries(JournalFileOpenLock):
    """Nobody else is at work on the journal (`alone_in`), so there is nothing to lock, but an entry is written whole.

    The lock files of optuna do not survive Ctrl-C: taken between two of their steps, it ends as an error about a file
    of theirs, or leaves one that the next access waits for.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._waiting = Interrupts()

    def acquire(self) -> bool:
        """Hold Ctrl-C back."""
        self._waiting = Interrupts().__enter__()
        return True

    def release(self) -> None:
        """Deliver a Ctrl-C that was held back."""
        self._waiting.__exit__(None, None, None)


def check_folder(folder: Path, resume: bool, model: Path) -> None:
    """Find out, before any work, whether trials can be kept here.

    Args:
        folder: The directory of journal and results.
        resume: Whether trials that it holds are to be continued.
        model: The checkpoint, which nothing is written into.

    Raises:
        UserError: The directory has something in it that is not to be, or cannot be, continued; lies in the model; or
            cannot be made.
    """
    if model.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UserError("the output lies inside the model", where=folder, remedy="name a directory outside it")
    if folder.exists() and not folder.is_dir():
        raise UserError("the output exists and is no directory", where=folder, remedy="name a directory")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / FILE).is_file():
            raise UserError(
                "the output directory is not empty and holds no trials",
                where=folder,
                expected="a new or empty directory, or one from an earlier `tune`",
            )
        _check_ours(folder / FILE)
        if not resume:
            raise UserError(
                "the output directory holds trials already",
                where=folder,
                expected="a new or empty directory",
                remedy="go on with `resume`, or name another directory",
            )
    if not folder.is_dir() and not folder.absolute().parent.is_dir():
        raise UserError("the output's parent directory does not exist", where=folder.absolute().parent)
    place = folder if folder.is_dir() else folder.absolute().parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError("no permission to write here", where=place)


@contextmanager
def opened(folder: Path, inputs: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """The study of a directory, made where there is none, for this process alone.

    Args:
        folder: From `check_folder`.
        inputs: What the trials depend on, by name; JSON values.

    Raises:
        UserError: Another process is at work on it, its trials were made from other inputs, or it is broken.
    """
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    with alone_in(folder, "tune"):
        fresh = not (folder / FILE).exists()
        if not fresh:
            _check_ours(folder / FILE)
        try:
            study = _load(folder / FILE)
            _check_inputs(study, inputs, folder)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                # Its process died; without a reason it does not count, and what it was to try is tried again.
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        except UserError:
            # Wrong input leaves no directory behind that would refuse the right one.
            if fresh:
                (folder / FILE).unlink(missing_ok=True)
                if made:
                    folder.rmdir()
            raise


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end by themselves, failed ones among them, in order."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        if trial.state == TrialState.COMPLETE or REASON in trial.user_attrs
    ]


def drawn(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Finished trials by the number that their draws were made from; before numbers were kept, their place."""
    return {trial.user_attrs.get(DRAW, place): trial for place, trial in enumerate(finished(study))}


def take_over(study: optuna.Study, folders: Sequence[Path], inputs: Mapping[str, Any]) -> None:
    """Add the finished trials of other searches, in the order of their numbers; those that are there stay.

    Args:
        study: From `opened`.
        folders: Directories of `tune`; only read, but for the end of a line that a kill left.
        inputs: As in `opened`; whether theirs are a shard's does not matter.

    Raises:
        UserError: A directory holds no trials, is in use, or its trials were made from other inputs.
    """
    found: dict[int, FrozenTrial] = {}
    for folder in folders:
        if not (folder / FILE).is_file():
            raise UserError("there are no trials to join", where=folder, expected="a directory of an earlier `tune`")
        with alone_in(folder, "tune"):
            _check_ours(folder / FILE)
            other = _load(folder / FILE, make=False)
            known = other.user_attrs.get(INPUTS, {})
            _check_same({name: value for name, value in known.items() if name != SHARD}, inputs, folder)
            if UNTOUCHED in other.user_attrs and UNTOUCHED not in study.user_attrs:
                study.set_user_attr(UNTOUCHED, other.user_attrs[UNTOUCHED])
            for number, trial in drawn(other).items():
                found.setdefault(number, trial)
    for number in sorted(found.keys() - drawn(study).keys()):
        trial = found[number]
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**trial.user_attrs, DRAW: number},
            )
        )


def _load(path: Path, *, make: bool = True) -> optuna.Study:
    optuna.logging.set_verbosity(logging.WARNING)
    _cut_torn_line(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_WholeEntries(path)))
            if not make:
                # The other call writes an entry each time.
                return optuna.load_study(storage=storage, study_name=_STUDY)
            return optuna.create_study(
                storage=storage,
                study_name=_STUDY,
                directions=["minimize"] * len(OBJECTIVES),
                load_if_exists=True,
            )
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(
            f"the journal of earlier trials cannot be read: {type(error).__name__}: {error}",
            where=path,
            remedy="name another directory to start anew",
        ) from error


def _check_ours(path: Path) -> None:
    """Refuse a file that no `tune` began; nothing is written before this.

    Raises:
        UserError: The file is not from an earlier `tune`.
    """
    with path.open("rb") as file:
        first, second = file.readline(_MOST_BYTES), file.readline(_MOST_BYTES)
    if first.endswith(b"\n"):
        ours = _says(first, _FIRST) and (not second.endswith(b"\n") or _says(second, {"op_code": 2}, INPUTS))
    else:
        # All there is may be the beginning of the first line.
        ours = _HEAD.startswith(first) or first.startswith(_HEAD)
    if not ours:
        raise UserError(
            f"the file {FILE} in the output directory is not of an earlier `tune`",
            where=path,
            expected="a new or empty directory, or one from an earlier `tune`",
            remedy="name another directory; this one is left as it is",
        )


def _says(line: bytes, facts: Mapping[str, object], attribute: str | None = None) -> bool:
    try:
        found = json.loads(line)
        return all(found[key] == value for key, value in facts.items()) and (
            attribute is None or attribute in found["user_attr"]
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _cut_torn_line(path: Path) -> None:
    # A process killed while it wrote leaves half an entry, which the next one would be glued to.
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _check_inputs(study: optuna.Study, inputs: Mapping[str, Any], folder: Path) -> None:
    known = study.user_attrs.get(INPUTS)
    if known is None:
        study.set_user_attr(INPUTS, dict(inputs))
        return
    _check_same(known, inputs, folder)


def _check_same(known: Mapping[str, Any], inputs: Mapping[str, Any], folder: Path) -> None:
    for name in {**known, **inputs}:
        if known.get(name) != inputs.get(name):
            raise UserError(
                f"the trials in this directory were made with another {name}",
                where=folder,
                value=inputs.get(name),
                expected=f"as before: {known.get(name)}",
                remedy="give the same inputs to go on, or name another directory",
            )
