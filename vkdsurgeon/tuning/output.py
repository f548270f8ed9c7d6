"""The output directory: ready recipes and the document, each whole or not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vkdsurgeon.config.files import dump_recipe
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.results.envelope import enveloped
from vkdsurgeon.tuning.objective import OBJECTIVES
from vkdsurgeon.tuning.result import Attempt, TuneResult, front_file

DOCUMENT, PICKED = "tune.json", "picked.yaml"
_WRITTEN_BY = " of `vkdsurgeon tune`. Less is better."
_OURS = re.compile(r"\d{2,}\.yaml")


def write(result: TuneResult, folder: Path) -> None:
    """Write front, document and picked recipe, in place of those of an earlier run on the same trials."""
    front = folder / "front"
    front.mkdir(exist_ok=True)
    wanted = {}
    for rank, attempt in enumerate(result.front, start=1):
        wanted[folder / front_file(rank)] = _recipe(
            attempt, result, f"Member {rank} of {len(result.front)} of the front"
        )
    for path in front.iterdir():
        if _OURS.fullmatch(path.name) and path not in wanted and _is_written_here(path):
            path.unlink()
    for path, text in wanted.items():
        write_whole(path, text)
    if result.picked is not None:
        write_whole(folder / PICKED, _recipe(result.picked, result, f"Picked by: {result.rule}"))
    elif _is_written_here(folder / PICKED):
        (folder / PICKED).unlink()
    write_whole(folder / DOCUMENT, json.dumps(enveloped(result.as_dict()), indent=2) + "\n")


def _is_written_here(path: Path) -> bool:
    """Whether a recipe is one of an earlier search, and not one that somebody put there."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\n").endswith(_WRITTEN_BY)
    except (OSError, ValueError):
        return False


def _recipe(attempt: Attempt, result: TuneResult, title: str) -> str:
    lines = [f"{title}; trial {attempt.number}{_WRITTEN_BY}"]
    for name in OBJECTIVES:
        facts = result.objectives[name]
        default = f"{result.default.values[name]:g}" if result.default.values else "failed"
        lines.append(
            f"{name} {attempt.values[name]:g} (start recipe {default}, untouched model "
            f"{result.untouched[name]:g}): {facts['what']}"
        )
    if (verdict := attempt.facts.get("stop_rule")) is not None:
        lines.append(f"stop rule {'met' if verdict['met'] else 'not met'} in the trial")
    changes = ", ".join(f"{key} {value}" for key, value in attempt.changes.items())
    lines.append(f"differs from the start recipe in: {changes or 'nothing'}")
    return "".join(f"# {line}\n" for line in lines) + dump_recipe(attempt.recipe)
