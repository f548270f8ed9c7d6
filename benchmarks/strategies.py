"""Every strategy of the recipe on the built-in miniature, all else as by default: the table of docs/studies/method.md.

    python -m benchmarks.strategies [--only swap mean ...] [--seed 0] [--out benchmarks/results/strategies.jsonl]
    python -m benchmarks.strategies --table

One JSON line per strategy. Settings were chosen on this same miniature and for `nobody` alone, so a row says what a
strategy does in its place, not what it could do with settings of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.miniature import measure
from vkdsurgeon import load_recipe
from vkdsurgeon.data.miniature import unpack

ROWS = provenance.RESULTS / "strategies.jsonl"


@dataclass(frozen=True)
class Case:
    """One row of the study: what differs from the default."""

    choice: str
    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None


CASES = (
    Case("default", "default"),
    *(
        Case("forget_target", name, {"forget_target": name})
        for name in ("common", "swap", "farthest", "mean", "rmu", "blank")
    ),
    Case("forget_target", "reference (gold)", {"forget_target": "reference"}, teacher="gold"),
    *(Case("saliency", name, {"saliency": name}) for name in ("ratio", "fisher", "random")),
    *(Case("retain_distance", name, {"retain_distance": {name: 1.0}}) for name in ("mse", "cosine", "smooth_l1")),
    *(
        Case("retain_distance", f"nmse + {name}", {"retain_distance": {"nmse": 1.0, name: 1.0}})
        for name in ("relational", "cka", "attention")
    ),
    *(Case("retain_distance", name, {"retain_distance": {name: 1.0}}) for name in ("relational", "cka", "attention")),
    Case("retain_layers", "layer.3, projector", {"retain_layers": {"layer.3": 1.0, "projector": 1.0}}),
    Case("depth", "2", {"depth": 2}),
    Case("depth", "projector", {"depth": "projector"}),
    *(Case("granularity", name, {"granularity": name}) for name in ("row", "tensor", "layer")),
    *(Case("distance", name, {"distance": name}) for name in ("mse", "cosine", "smooth_l1")),
)


def run(case: Case, place: Path, seed: int) -> dict[str, Any]:
    """Measure one case."""
    teacher = None if case.teacher is None else place / case.teacher
    recipe = load_recipe(**case.overrides)
    row = measure(place, recipe, seed, retain=True, forget_teacher=teacher)
    return {
        "choice": case.choice,
        "name": case.name,
        "overrides": case.overrides,
        **row,
        **provenance.provenance(torch.device("cpu")),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in the order of `CASES`; a case without a row says so."""
    found = {(row["choice"], row["name"]): row for row in rows}
    shown = ("choice", "value", "name", "attributes", "general", "retain VQA", "forget ratio", "drift")
    lines = [f"| {' | '.join(shown)} |", "|" + "-|" * len(shown)]
    for case in CASES:
        row = found.get((case.choice, case.name))
        if row is None:
            lines.append(f"| {case.choice} | {case.name} | not measured | | | | | |")
            continue
        measured = [row[key]["unlearned"] for key in ("forget.vqa.name", "forget.attributes.no_coincidence")]
        measured += [row[key]["unlearned"] for key in ("forget.general", "retain.vqa")]
        met = "" if row["stop_rule_met"] else " (not met)"
        told = [f"{row['forget_ratio']:.3f}{met}", f"{row['retain_drift']:.3f}"]
        lines.append(
            f"| {' | '.join([case.choice, case.name, *(f'{100 * share:.1f}' for share in measured), *told])} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cases, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted({case.name for case in CASES}), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(provenance.read(arguments.out)))
        return
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "miniature"
            unpack(place)
            row = run(case, place, arguments.seed)
        provenance.keep(arguments.out, [row], ["choice", "name", "seed"])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
