"""When the state of a run is saved, and what becomes of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.errors import UserError
from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.training.resume.files import MADE, Folder, damaged
from vkdsurgeon.training.resume.interrupts import Interrupts
from vkdsurgeon.training.resume.match import check_match
from vkdsurgeon.training.resume.state import Files, mask_from
from vkdsurgeon.training.saliency import SaliencyMask

# A save may take one part in this many of the time between saves, however slow the disk.
_MOST_SHARE = 20
_FORWARDED_SECONDS = 5.0
# What threads and batches may change in a measurement that is made again.
_ROUNDING = 1e-2


@dataclass(frozen=True)
class Snapshot:
    """A pass at the end of a step.

    Attributes:
        facts: Numbers as JSON; no name, answer or path of any set.
        files: Its tensors.
    """

    facts: dict[str, Any]
    files: Files


@dataclass(frozen=True)
class Kept:
    """The saved state of a pass.

    Attributes:
        facts: Facts of the snapshot.
        tensors: Role -> what reads its tensors.
        where: The journal, for messages.
    """

    facts: dict[str, Any]
    tensors: dict[str, Callable[[], dict[str, Tensor]]]
    where: Path

    def mask(self, parameters: Mapping[str, Parameter]) -> SaliencyMask:
        """The mask that was trained with.

        Args:
            parameters: All parameters by name.

        Raises:
            UserError: It does not fit them.
        """
        with self.intact():
            return mask_from(self.tensors["mask"](), self.facts["selected"], self.facts["total"], parameters)

    def agree(self, said: Mapping[str, float], found: Mapping[str, float]) -> None:
        """Refuse to write weights that are not those the verdict is about.

        Args:
            said: What the verdict measured that the weights are to be written for; it may come from the journal.
            found: The same, measured on these weights just now.

        Raises:
            UserError: They differ by more than rounding: somebody altered the journal, digests included.
        """
        for name, told in said.items():
            seen = found[name]
            # Not `>`: what is not a number agrees with nothing.
            if not abs(told - seen) <= _ROUNDING * (1 + abs(seen)):
                raise damaged(self.where, f"it tells a {name} of {told:.4f}, and its weights have {seen:.4f}")

    @contextmanager
    def intact(self) -> Iterator[None]:
        """A context in which what is read must fit the run.

        Raises:
            UserError: It does not, although every digest was right.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise damaged(self.where, f"{type(error).__name__}: {error}") from error


def kept_by_first(journal: Journal | None, name: str, processes: Processes) -> Kept | None:
    """The saved state of a pass, which the first process alone can read, in all of them; None where there is none."""
    kept = None if journal is None else journal.kept(name)
    if processes.count == 1:
        return kept
    facts = None if kept is None else {"facts": kept.facts, "roles": list(kept.tensors), "where": str(kept.where)}
    told = processes.told(facts)
    if told is None:
        return None

    def own(role: str) -> dict[str, Tensor]:
        assert kept is not None
        with kept.intact():
            return kept.tensors[role]()

    found = {role: processes.told_tensors(processes.lead(partial(own, role)) or {}) for role in told["roles"]}
    return Kept(told["facts"], {role: partial(found.__getitem__, role) for role in found}, Path(told["where"]))


class Journal:
    """The journal of one run.

    Args:
        path: Its directory.
        resume: Go on from what is there; where there is nothing, the run starts.
        apart_from: Directories that it must not be in, by what they are.
        minutes: Least time between saves; 0 saves after every step.
        reserve: Bytes of its disk that it must leave free.
        disposable: The directory goes with the journal even where it was there before.
        warn: Hears once that nothing could be saved.

    Raises:
        UserError: It cannot be there, is damaged, is in use, or is there and `resume` was not asked for.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume: bool,
        apart_from: Mapping[str, Path],
        minutes: float,
        reserve: int = 0,
        disposable: bool = False,
        warn: Callable[[str], None],
    ) -> None:
        self.path = path
        self._folder = Folder(path, reserve, disposable=disposable)
        self._folder.check(apart_from)
        self._seconds, self._warn, self._warned = 60 * minutes, warn, False
        self._last, self._cost = time.monotonic(), 0.0
        self._document: dict[str, Any] = {"salt": secrets.token_hex(16), "inputs": {}, "passes": {}}
        self.resumed = False
        # A full disk stops no run, and is told when the first save fails.
        with suppress(OSError):
            # Now and not with the first save, so that of two equal runs the second ends before it has done anything.
            self._folder.lock()
        try:
            if self._folder.exists:
                self._go_on(resume)
        except BaseException:
            self._folder.close()
            raise

    def _go_on(self, resume: bool) -> None:
        """Take up what is there."""
        if not resume and self._holds_a_state():
            raise UserError(
                "the journal of an earlier run is here",
                where=self.path,
                expected="a run that continues it, or no journal",
                remedy="use `resume` to continue that run, or remove the directory to start again",
            )
        found = self._folder.read()
        self._folder.made = self._folder.made or bool(found.get(MADE))
        if found["passes"]:
            self._document, self.resumed = found, True

    def _holds_a_state(self) -> bool:
        # A damaged one may hold anything.
        try:
            return bool(self._folder.read()["passes"])
        except UserError:
            return True

    @property
    def salt(self) -> bytes:
        """For the digests of the sets."""
        try:
            return bytes.fromhex(self._document["salt"])
        except (KeyError, TypeError, ValueError):
            raise damaged(self.path, "it has no salt") from None

    @property
    def saved(self) -> bool:
        """Whether there is something to resume."""
        return bool(self._document["passes"])

    def match(self, inputs: Mapping[str, Any]) -> None:
        """Refuse a journal of other inputs; see `pipeline.fingerprint.inputs_of`.

        Raises:
            UserError: Naming the input that differs.
        """
        if self.resumed:
            check_match(self._document["inputs"], inputs, self.path)
        self._document["inputs"] = dict(inputs)

    def kept(self, name: str) -> Kept | None:
        """The saved state of a pass; None where there is none."""
        found = self._document["passes"].get(name)
        if found is None:
            return None

        def reader(entry: Mapping[str, str]) -> Callable[[], dict[str, Tensor]]:
            return lambda: self._folder.tensors(entry)

        return Kept(found["facts"], {role: reader(entry) for role, entry in found["files"].items()}, self.path)

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        wait = max(self._seconds, _MOST_SHARE * self._cost) if self._seconds else 0.0
        return time.monotonic() - self._last >= wait

    def save(self, name: str, snapshot: Snapshot) -> bool:
        """Save a pass, so that the journal holds it whole or as it was before.

        Args:
            name: Name of the pass.
            snapshot: Its state.

        Returns:
            Whether that worked. A full disk stops no run: it is told once, and tried again the next time.
        """
        begun = time.monotonic()
        before = self._document["passes"].get(name, {"files": {}})["files"]
        try:
            self._begin()
            files = {}
            for role, (stamp, make) in snapshot.files.items():
                stem = f"{name}-{role}-{stamp}"
                known = before.get(role)
                if known is None or known["file"] != f"{stem}.safetensors" or not self._folder.holds(known):
                    known = self._folder.write(stem, make())
                files[role] = known
            passes = {**self._document["passes"], name: {"facts": snapshot.facts, "files": files}}
            document = {**self._document, "passes": passes}
            self._folder.commit(document)
        except (OSError, SafetensorError, UserError) as error:
            if not self._warned:
                self._warn(
                    f"the state of the run could not be saved in {self.path}: {error}. The run goes on; until saving "
                    "works again it can be resumed from its last saved state only, if there is one"
                )
            self._warned = True
            with suppress(OSError):
                self._folder.tidy(self._document) if self.saved else self._folder.remove()
            return False
        finally:
            self._last = time.monotonic()
            self._cost = self._last - begun
        self._document = document
        return True

    def _begin(self) -> None:
        # Files that no document stands beside would be nobody's.
        if not self._folder.exists:
            self._folder.lock()
            self._document[MADE] = self._folder.made
            self._folder.commit(self._document)

    def discard(self) -> None:
        """Remove the journal: the run is done, or would end the same way again."""
        self._document["passes"] = {}
        with suppress(OSError):
            self._folder.remove()
        self._folder.close()

    def close(self) -> None:
        """Leave the journal for another process to resume."""
        self._folder.close()


class Keeper:
    """A context that saves a pass while it trains, at the end of steps alone.

    Args:
        journal: Where; None keeps nothing, and one process alone leaves signals as they are then.
        name: Name of the pass.
        snapshot: Takes its state.
        processes: Those that train together: where one was interrupted, all end after the same step.
    """

    def __init__(
        self,
        journal: Journal | None,
        name: str,
        snapshot: Callable[[], Snapshot],
        processes: Processes = ALONE,
    ) -> None:
        self._journal, self._name, self._snapshot, self._processes = journal, name, snapshot, processes
        # A launcher hands on what the terminal has sent to every process already.
        self._interrupts = Interrupts(patience=0.0 if processes.count == 1 else _FORWARDED_SECONDS)

    def __enter__(self) -> Keeper:
        if self._journal is not None or self._processes.count > 1:
            self._interrupts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupts.__exit__(kind, error, trace)

    def step(self) -> None:
        """A step is done: save if it is time to.

        Raises:
            KeyboardInterrupt: A signal came during the step; the state was saved.
        """
        stop = self._processes.any(self._interrupts.pending)
        if self._journal is not None and (stop or self._journal.due):
            self._journal.save(self._name, self._snapshot())
        if stop:
            raise KeyboardInterrupt

    def save(self) -> None:
        """Save now.

        Raises:
            KeyboardInterrupt: A signal came; the state was saved.
        """
        if self._journal is not None:
            self._journal.save(self._name, self._snapshot())
        if self._processes.any(self._interrupts.pending):
            raise KeyboardInterrupt
