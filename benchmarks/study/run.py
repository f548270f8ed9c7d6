"""Fill the results: one row per case, recipe and seed; rows that are there already are left alone."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.study.attacks import Attack
from benchmarks.study.cases import Place, role_of
from benchmarks.study.kept import unlearn_or_find
from benchmarks.study.measure import Laboratory
from benchmarks.study.recipes import StudyRecipe, still_holds
from vkdsurgeon.config.shard import Shard

ROWS = provenance.RESULTS / "study.jsonl"
IDENTITY = ("case", "recipe", "seed")

Tell = Callable[[str], None]


def run(
    places: Iterable[Place],
    recipes: Mapping[str, StudyRecipe],
    seeds: Sequence[int],
    attacks: Sequence[Attack],
    *,
    out: Path = ROWS,
    keep: Path | None = None,
    shard: Shard | None = None,
    tell: Tell = lambda line: None,
) -> None:
    """Measure base, gold and every recipe on every case.

    Args:
        places: The cases.
        recipes: By name.
        seeds: Of unlearning and of the attacks; gold is attacked with each, base is measured once.
        attacks: Which; of a row that lacks some, only those are run and added.
        out: JSON lines.
        keep: Where patched checkpoints stay, so that attacks added later need no unlearning again; None to keep none.
        shard: Measure its share of the rows alone, counted over all cases in their order; None for all.
        tell: Called with a line per row.
    """
    positions = itertools.count()
    for place in places:
        wanted: list[tuple[str, int, StudyRecipe | None, Sequence[Attack]]] = [("base", 0, None, ())]
        wanted += [("gold", seed, None, attacks) for seed in seeds if place.gold is not None]
        wanted += [(name, seed, recipe, attacks) for seed in seeds for name, recipe in recipes.items()]
        laboratory: Laboratory | None = None
        # Counted before anything is skipped, so that every shard counts alike.
        numbered = [(next(positions), each) for each in wanted]
        mine = [each for position, each in numbered if shard is None or shard.takes(position)]
        for name, seed, recipe, asked in mine:
            settings = None if recipe is None else recipe.effective
            old = _found(out, place.name, name, seed, settings)
            missing = [attack for attack in asked if attack.name not in (old or {}).get("attacks", {})]
            if old is not None and not missing:
                continue
            laboratory = laboratory or Laboratory(place)
            started = time.monotonic()
            row = _measure(laboratory, name, recipe, seed, missing, keep)
            if old is not None:
                row["attacks"] = {**old["attacks"], **row["attacks"]}
            row = {
                "case": place.name,
                "role": role_of(place.name),
                "recipe": name,
                "seed": seed,
                "settings": settings,
                **row,
                "row_seconds": round(time.monotonic() - started, 1),
                **provenance.provenance(torch.device("cpu")),
            }
            _keep(out, row)
            tell(_line(row))


def _found(out: Path, case: str, recipe: str, seed: int, settings: Any) -> dict[str, Any] | None:
    rows = [row for row in provenance.read(out) if (row["case"], row["recipe"], row["seed"]) == (case, recipe, seed)]
    return rows[-1] if rows and still_holds(rows[-1]["settings"], settings) else None


def _keep(out: Path, row: dict[str, Any]) -> None:
    # Several runs may fill one file.
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        provenance.keep(out, [row], IDENTITY)
    finally:
        os.close(folder)


def _measure(
    laboratory: Laboratory,
    name: str,
    recipe: StudyRecipe | None,
    seed: int,
    attacks: Sequence[Attack],
    keep: Path | None,
) -> dict[str, Any]:
    place = laboratory.place
    if recipe is None:
        root = place.base if name == "base" else place.gold
        assert root is not None
        return _examined(laboratory, root, seed, attacks)
    with tempfile.TemporaryDirectory() as scratch:
        out = (keep or Path(scratch)) / f"{place.name}-{name}-{seed}"
        done = unlearn_or_find(laboratory, recipe, seed, out)
        edited = not done["unlearning"]["language_tensors_identical"]
        return {**done, **_examined(laboratory, out, seed, attacks, restored=edited)}


def _examined(
    laboratory: Laboratory, root: Path, seed: int, attacks: Sequence[Attack], *, restored: bool = False
) -> dict[str, Any]:
    loaded = laboratory.load(root)
    values, right = laboratory.examine(loaded)
    row = {"values": values, "attacks": laboratory.attack(loaded, attacks, right, seed)}
    return {**row, "restore": laboratory.restore(loaded)} if restored else row


def _line(row: dict[str, Any]) -> str:
    shown = [f"{name} {100 * row['values'][name]:.1f}" for name in ("name", "vqa", "general", "retain", "text")]
    shown += [f"{name} {attack['ag']:+.1f}" for name, attack in row["attacks"].items()]
    if "stop_rule_met" in row.get("unlearning", {}):
        shown.append(f"stop rule {'met' if row['unlearning']['stop_rule_met'] else 'NOT met'}")
    return f"{row['case']} {row['recipe']} {row['seed']} ({row['row_seconds']} s): " + ", ".join(shown)
