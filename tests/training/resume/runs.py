"""Runs of the whole pipeline on a tiny model, stopped where a test wants them stopped."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tests.tiny_llava import build, write_records
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.pipeline.run import run
from vkdsurgeon.training.events import Event

DECODER = DecoderRecipe(
    steps=4, step_size=0.3, forget_batch=4, retain_batch=4, text_batch=4, answer_tokens=2, forget_ratio=9,
    retain_kl=9, text_kl=9, text_agreement=0,
)  # fmt: skip
# Eleven images a step leave every order half used at almost any step. The stop rule is never met.
RECIPE = Recipe(
    steps=8, forget_batch=5, retain_batch=6, stand_ins=1, extensions=1, step_drift=1e-6, retain_drift=9.0, copies=1,
    tamper_weight=0.0,
)  # fmt: skip


class Killed(BaseException):
    """Ends a run as no cleanup expects it."""


@dataclass
class Place:
    """A model and its sets; read-only."""

    model: Path
    forget: Path
    retain: Path
    text: Path
    heldout: Path


@functools.cache
def place(folder: Path) -> Place:
    """Build the model once, and write a few images of each person with two questions each."""
    folder.mkdir(exist_ok=True)
    found = Place(model=build(folder / "model"), **write_records(folder))
    for path in (found.forget, found.retain):
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(row for number, row in enumerate(rows) if number % 16 < 8 and number % 4 in (0, 3)))
    return found


@dataclass
class Ear:
    """Listens, and acts on the n-th event of a kind."""

    at: str = ""
    act: Callable[[], None] = lambda: None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def _heard(self, name: str) -> None:
        self.events.append(name)
        if f"{name} {self.events.count(name)}" == self.at:
            self.act()

    def __call__(self, event: Event) -> None:
        if event.kind == "note":
            self.notes.append(event.text)
        elif event.kind == "warning":
            self.warnings.append(event.text)
        elif event.kind == "stage":
            self._heard(event.text)
        elif not event.kind.endswith("plan"):
            self._heard(event.kind)


def killed() -> None:
    """The process dies here."""
    raise Killed


def asked(place: Place, out: Path, recipe: Recipe = RECIPE, **changes: Any) -> Request:
    """A request whose journal is saved after every step."""
    request = Request(
        model=place.model,
        forget=place.forget,
        retain=place.retain,
        generic=None,
        out=out,
        recipe=recipe,
        seed=3,
        device=torch.device("cpu"),
        dtype=torch.float32,
        text=place.text if recipe.decoder else None,
        checkpoint_minutes=0,
    )
    return replace(request, **changes)


def go(request: Request, ear: Ear | None = None) -> UnlearnResult:
    """Run it."""
    return run(request, ear or Ear())


def stop(request: Request, at: str, act: Callable[[], None] = killed) -> Ear:
    """Run it up to an event, such as `step 5`, after which `act` ends it."""
    ear = Ear(at, act)
    try:
        go(request, ear)
    except (Killed, KeyboardInterrupt) as end:
        ear.notes += map(str, end.args)
        return ear
    raise AssertionError(f"the run did not get to {at}: {ear.events}")


def files(root: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def journal(out: Path) -> dict[str, Any]:
    """The document of the journal beside an output."""
    found: dict[str, Any] = json.loads((out.with_name(out.name + ".journal") / "journal.json").read_text())
    return found
