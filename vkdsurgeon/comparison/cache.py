"""Finished cells, kept in files under a digest of everything that decides their numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.comparison.datasets import Case
from vkdsurgeon.comparison.relearning import attack_plan
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.results.comparison import Cell
from vkdsurgeon.training.events import Event, Listener


def cached(
    case: Case, name: str, seed: int, known: dict[str, Any], fill: Callable[[str], Cell], listener: Listener
) -> Cell:
    """A cell from its file, if it was made of the same inputs; else made and kept.

    Args:
        case: The comparison.
        name: The row.
        seed: Seed of unlearning and attacks.
        known: What decides the numbers besides sets, attacks and versions.
        fill: Makes the cell of a key.
        listener: Hears where it came from.
    """
    key = _key(case, seed, known)
    path = case.cells / f"{name}-{seed}-{key[:16]}.json"
    if path.is_file():
        try:
            cell = Cell.model_validate_json(path.read_bytes())
        except ValidationError:
            cell = None
        if cell is not None and cell.key == key:
            listener(Event("cell", f"{name}, seed {seed}: known", {"method": name, "seed": seed, "cached": True}))
            return cell
    cell = fill(key)
    write_whole(path, json.dumps(cell.model_dump(mode="json"), indent=2) + "\n")
    listener(Event("cell", f"{name}, seed {seed}: done", {"method": name, "seed": seed, "cached": False}))
    return cell


def _key(case: Case, seed: int, known: dict[str, Any]) -> str:
    """Digest of what decides a cell's numbers; time and memory are those of the run that made it."""
    plan = attack_plan(case, seed)
    facts = {
        **known,
        "seed": seed,
        "sets": case.digests,
        "attack": None if plan is None else plan.digest,
        "limit": case.asked.limit,
        "device": "auto" if case.asked.device == "auto" else case.asked.device.split(":")[0],
        "split": [case.asked.tower, case.asked.projector],
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
