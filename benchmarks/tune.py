"""`vkdsurgeon tune` on a case that is served badly, the miniature without a retain set: docs/studies/tune.md.

    python -m benchmarks.tune --work DIR [--minutes 30] [--trials 40] [--pick retain] [--seed 0] [--preset robust]
    python -m benchmarks.tune --table

The search sees neither the held-out views nor a single answer. Afterwards the start recipe and the picked one are run
on all images and measured on held-out views, one JSON line each. DIR keeps the trials: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.miniature import measure
from vkdsurgeon import Event, TuneResult, tune
from vkdsurgeon.config.preset import preset_names
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.tuning.result import Attempt

ROWS = provenance.RESULTS / "tune.jsonl"
CASE = "miniature without a retain set"
SHOWN = ("forget.vqa.name", "forget.vqa", "forget.general", "retain.vqa", "retain.general")


def told(event: Event) -> None:
    """Finished trials on stderr, nothing else."""
    if event.kind == "trial":
        attempt: Attempt = event.subject
        print(json.dumps({"changes": attempt.changes, **attempt.values}), file=sys.stderr, flush=True)


def find(place: Path, work: Path, arguments: argparse.Namespace) -> TuneResult:
    """Search, or go on with the trials in `work`."""
    return tune(
        place / "base",
        place / "records" / "forget.jsonl",
        work,
        preset=arguments.preset,
        trials=arguments.trials,
        minutes=arguments.minutes,
        pick=arguments.pick,
        seed=arguments.seed,
        device="cpu",
        resume=True,
        on_event=told,
    )


def row(name: str, attempt: Attempt, result: TuneResult, seed: int) -> dict[str, Any]:
    """Unlearn by a trial's recipe on all images, and measure on held-out views."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "miniature"
        unpack(place)
        measured = measure(place, attempt.recipe, seed, retain=False)
    return {
        "case": CASE,
        "recipe": name,
        "rule": result.rule if name == "picked" else None,
        "trial": attempt.number,
        "trials": len(result.attempts),
        "front": len(result.front),
        "changes": attempt.changes,
        "objectives": attempt.values,
        **measured,
        **provenance.provenance(torch.device("cpu")),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; percent."""
    head = (
        "recipe",
        "name",
        "forget VQA",
        "general, forget",
        "retain VQA",
        "general, retain",
        "forget ratio",
        "stop rule",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "-|" * len(head)]
    for reference in ("base", "gold"):
        if rows:
            shares = " | ".join(f"{100 * rows[0][key][reference]:.1f}" for key in SHOWN)
            lines.append(f"| {reference} | {shares} | | |")
    for each in rows:
        shares = " | ".join(f"{100 * each[key]['unlearned']:.1f}" for key in SHOWN)
        told = "met" if each["stop_rule_met"] else "not met"
        lines.append(f"| {each['recipe']}, seed {each['seed']} | {shares} | {each['forget_ratio']:.3f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Search and measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--pick", default="retain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=preset_names(), default="default", help="The recipe to start from.")
    parser.add_argument("--only", choices=("default", "picked"))
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(provenance.read(arguments.out)))
        return
    if arguments.work is None:
        parser.error("--work names the directory that keeps the trials")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "miniature"
        unpack(place)
        result = find(place, arguments.work, arguments)
    if result.picked is None:
        parser.error(f"no member of the front satisfies {result.rule!r}")
    for name, attempt in (("picked", result.picked), ("default", result.default)):
        if arguments.only in (None, name):
            measured = row(name, attempt, result, arguments.seed)
            provenance.keep(arguments.out, [measured], ["case", "recipe", "rule", "seed"])
            print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    sys.exit(main())
