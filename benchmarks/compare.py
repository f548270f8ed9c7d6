"""All methods on the built-in miniature, held-out views: the table of docs/studies/baselines.md.

    python -m benchmarks.compare OUT [--methods vkd,npo] [--seeds 0,1,2] [--attack-scope visual,all] [--record]

OUT keeps finished cells, so an interrupted run goes on; `--record` writes one JSON line per cell to
benchmarks/results/compare.jsonl, in place of earlier lines about the same method, seed, versions and device.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import provenance
from vkdsurgeon import ComparisonResult, compare
from vkdsurgeon.comparison.methods import parse_seeds
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.results.comparison_table import markdown

FILE = provenance.RESULTS / "compare.jsonl"


def rows_of(result: ComparisonResult) -> list[dict[str, object]]:
    """One row per cell, with what the whole comparison has in common."""
    common = {
        "device": result.device,
        "threads": result.threads,
        "limit": result.limit,
        "attack": result.attack.model_dump(),
        "versions": result.versions,
    }
    return [{**cell.model_dump(exclude={"key"}), **common} for cell in result.cells]


def main() -> None:
    """Run what is missing, print the table, and record the rows if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--attack-scope", default="visual,all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = unpack(Path(scratch) / "miniature")
        result = compare(
            place.base,
            arguments.methods,
            place.records / "forget.jsonl",
            place.records / "retain.jsonl",
            arguments.out,
            gold=place.gold,
            heldout=place.records / "forget_heldout.jsonl",
            retain_heldout=place.records / "retain_heldout.jsonl",
            text=place.records / "text.jsonl",
            seeds=parse_seeds(arguments.seeds),
            attack_scopes=arguments.attack_scope.split(","),
            device=arguments.device,
            on_event=lambda event: print(event.text, file=sys.stderr) if event.kind == "cell" else None,
        )
    print(markdown(result))
    if arguments.record:
        provenance.keep(FILE, rows_of(result), ["name", "seed"])


if __name__ == "__main__":
    main()
