"""Stages that are done once: told by the digests of what they were made from, and of what they made."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.copy import digest
from vkdsurgeon.results.release import StageFacts
from vkdsurgeon.training.events import Event, Listener

_SCHEMA = "vkdsurgeon/release-stage/1"


@dataclass(frozen=True)
class Stage:
    """One step of a release.

    Attributes:
        name: What it is called, in words that may be a file's name.
        inputs: Everything that decides what it makes, as JSON can hold it: digests, never paths alone.
        outputs: What it makes, files or directories.
        run: Makes them; returns the bounds that were missed.
        ignored: Names of files in an output directory that others may change.
        begun: What else tells that the work began, such as a journal.
        replaces: Whether outputs of other inputs may be replaced. A checkpoint may not: its evidence would mix.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: Sequence[Path]
    run: Callable[[], list[str]]
    ignored: Sequence[str] = ()
    begun: Sequence[Path] = ()
    replaces: bool = True


class Stages:
    """Runs stages and remembers which are done.

    Args:
        out: The release's directory.
        listener: Hears of them.
    """

    def __init__(self, out: Path, listener: Listener) -> None:
        self._out, self._state, self._listener = out, out / "state", listener
        self.done: list[StageFacts] = []

    def do(self, stage: Stage) -> StageFacts:
        """Run a stage, or keep what an earlier run made of the same inputs.

        Raises:
            UserError: Its output is there, was made of other inputs, and must not be replaced; or as the stage.
        """
        asked = _canonical(stage.inputs)
        path = self._state / f"{stage.name}.json"
        kept = _read(path)
        # Without outputs it was begun and not done: killed, interrupted or failed on the way.
        done = kept is not None and kept["outputs"] and kept["inputs"] == asked
        if kept is not None and done and kept["outputs"] == self._digests(stage):
            facts = StageFacts(
                name=stage.name, state="kept", missed=kept["missed"], seconds=kept["seconds"],
                outputs=self._names(stage),
            )  # fmt: skip
            self._listener(Event.note(f"{stage.name}: done before, from the same inputs"))
            self.done.append(facts)
            return facts
        other = kept if kept is not None and kept["inputs"] != asked else None
        if other is not None and not stage.replaces and any(p.exists() for p in (*stage.outputs, *stage.begun)):
            raise UserError(
                f"the stage {stage.name!r} was done with other inputs",
                where=self._out,
                value=_differing(other["told"], stage.inputs),
                remedy="name a new directory, so that evidence of two runs never mixes",
            )
        self._listener(Event.stage(stage.name))
        if stage.replaces:
            path.unlink(missing_ok=True)
            self._clear(stage)
        elif kept is None or other is not None:
            # Told before the work, so that another plan never goes on with what this one began.
            self._write(path, stage, asked, {}, [], 0.0)
        started = time.perf_counter()
        missed = stage.run()
        seconds = round(time.perf_counter() - started, 3)
        self._write(path, stage, asked, self._digests(stage), missed, seconds)
        facts = StageFacts(name=stage.name, state="done", missed=missed, seconds=seconds, outputs=self._names(stage))
        self.done.append(facts)
        return facts

    def _write(
        self, path: Path, stage: Stage, asked: str, outputs: Mapping[str, str], missed: list[str], seconds: float
    ) -> None:
        told = {
            "schema": _SCHEMA,
            "inputs": asked,
            "outputs": outputs,
            "missed": missed,
            "seconds": seconds,
            "told": stage.inputs,
        }
        write_whole(path, json.dumps(told, indent=2, default=str) + "\n")

    def _names(self, stage: Stage) -> list[str]:
        return [path.relative_to(self._out).as_posix() for path in stage.outputs]

    def _digests(self, stage: Stage) -> dict[str, str]:
        found = {}
        for output in stage.outputs:
            for path in [output] if output.is_file() else sorted(output.rglob("*")):
                if path.is_file() and path.name not in stage.ignored:
                    found[path.relative_to(self._out).as_posix()] = digest(path)
        return found

    def _clear(self, stage: Stage) -> None:
        for path in stage.outputs:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _canonical(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["schema"] == _SCHEMA and found.keys() >= {"inputs", "outputs", "missed", "told"} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    told = json.loads(json.dumps(now, default=str))
    return [key for key in {**before, **told} if before.get(key) != told.get(key)]
