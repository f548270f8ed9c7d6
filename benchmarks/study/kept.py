"""Patched checkpoints that outlive a run, so that attacks that are asked for later need no unlearning again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.study.measure import Laboratory
from benchmarks.study.recipes import StudyRecipe, still_holds
from benchmarks.study.unlearning import unlearn
from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole


def unlearn_or_find(laboratory: Laboratory, recipe: StudyRecipe, seed: int, out: Path) -> dict[str, Any]:
    """Unlearn into a directory, or find it there.

    Args:
        laboratory: Of the case.
        recipe: The recipe.
        seed: As `--seed`.
        out: The directory; `OUT.json` beside it tells what was done. Both are replaced where settings, defaults,
            base or patched weights are others than it tells.

    Returns:
        What unlearning adds to the row.
    """
    told = out.with_name(f"{out.name}.json")
    made_from = {"base": _digest(laboratory.place.base), "seed": seed, "settings": recipe.effective}
    if told.is_file():
        note: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        if still_holds(note["made_from"], made_from) and note["weights_digest"] == _digest(out):
            found: dict[str, Any] = note["row"]
            return found
        told.unlink()
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    unlearned = unlearn(laboratory.place, recipe, seed, out)
    row = {"unlearning": unlearned.facts, "coincidences": laboratory.coincidences(unlearned.stand_ins)}
    write_whole(told, json.dumps({"made_from": made_from, "weights_digest": _digest(out), "row": row}) + "\n")
    return row


def _digest(root: Path) -> str | None:
    try:
        return weights_digest_of(root)
    except (UserError, OSError):
        # Such a directory is made anew; what is wrong with a base, unlearning tells better.
        return None
