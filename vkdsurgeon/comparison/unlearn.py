"""One method's patched model, made by a worker."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.comparison.datasets import Case
from vkdsurgeon.comparison.methods import ComparedMethod
from vkdsurgeon.comparison.subprocess import send
from vkdsurgeon.comparison.worker import RunSpec
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.directories import take
from vkdsurgeon.training.events import Event, Listener


def unlearn(
    case: Case, each: ComparedMethod, recipe: dict[str, Any], seed: int, out: Path, listener: Listener
) -> dict[str, Any]:
    """Unlearn into a directory, or find it done by a run that was interrupted while it measured.

    Args:
        case: The comparison.
        each: The method.
        recipe: Its recipe.
        seed: Its seed.
        out: The directory; removed first where it is not whole.
        listener: Hears progress.

    Returns:
        The fields of `worker.RunCost`.
    """
    asked, record = case.asked, _beside(out)
    if out.is_dir() and record.is_file():
        done: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if done["weights_digest"] == weights_digest_of(out):
            return done
    _remove(out)
    out.parent.mkdir(exist_ok=True)
    own = {"method": each.name, "seed": seed}
    listener(Event("unlearn", f"{each.name}, seed {seed}: unlearning", own))

    def heard(event: Event) -> None:
        listener(Event(event.kind, f"{each.name}, seed {seed}: {event.text}", {**event.facts, **own}))

    cost = send(
        RunSpec(
            model=str(asked.model.absolute()),
            forget=str(asked.forget.absolute()),
            retain=str(asked.retain.absolute()),
            text=str(case.given_text.absolute()) if each.reads_text and case.given_text else None,
            out=str(out.absolute()),
            method=each.method,
            recipe=recipe,
            seed=seed,
            device=asked.device,
            device_map=None if asked.device_map is None else asked.device_map.given,
            dtype=asked.dtype,
            tower=asked.tower,
            projector=None if asked.projector is None else list(asked.projector),
            threads=torch.get_num_threads(),
        ),
        heard,
    )
    write_whole(record, json.dumps(cost) + "\n")
    return cost


def forget_model(out: Path) -> None:
    """Remove a patched model and what is noted of it."""
    _remove(out)
    _beside(out).unlink(missing_ok=True)


def _remove(out: Path) -> None:
    # A run that went on from an earlier one's journal would not tell what it takes.
    journal = out.with_name(f"{out.name}.journal")
    try:
        held = take(journal)
    except FileNotFoundError:
        held = None
    except BlockingIOError:
        # The worker of a comparison that was killed lives on until its run ends.
        raise UserError(
            "a run of an earlier comparison is still using this model", where=out, remedy="wait for it to end"
        ) from None
    for path in (out, journal):
        shutil.rmtree(path, ignore_errors=True)
    if held is not None:
        os.close(held)


def _beside(model: Path) -> Path:
    """Where it is noted what a patched model took."""
    return model.with_name(f"{model.name}.json")
