"""Seconds of every stage of a whole `vkdsurgeon unlearn`, from the start of the process to its end.

    python -m benchmarks.stages [--cases miniature real small vit-l] [--real cases/real] [--device cuda] [--record]

The command runs as a user would run it, and tells when each stage begins (`--progress jsonl`). `real` needs `python -m
benchmarks.real build`; `small` (a tower of 23 M weights, 224 px) and `vit-l` (0.3 B, 336 px) are random models of
`benchmarks.end_to_end`, which take `--steps` steps and no extension: random weights say nothing about the stop rule.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.end_to_end.case import SIZES, build, draw_images
from benchmarks.provenance import RESULTS, keep, provenance
from vkdsurgeon.data.miniature import unpack

FILE = RESULTS / "stages.jsonl"
IDENTITY = ("operation", "case", "settings")
CASES = ("miniature", "real", "small", "vit-l")
# Images of the random models; what is drawn more often is not passed through the teacher again.
_FORGET, _RETAIN = 8, 16


def arguments_of(case: str, place: Path, real: Path, steps: int) -> list[str]:
    """MODEL and options of `unlearn` for a case, whose files are made under `place` where they are not there."""
    own: list[str] = []
    base, records = (real / "base", real / "records") if case == "real" else (place / "base", place / "records")
    if case == "miniature":
        unpack(place)
    elif case != "real":
        size = SIZES[case]
        build(base, size)
        for name, start, count in (("forget", 0, _FORGET), ("retain", 1000, _RETAIN)):
            draw_images(records, name, range(start, start + count), size.side)
        own = ["--steps", str(steps), "--set", "extensions=0"]
    return [str(base), "--forget", str(records / "forget.jsonl"), "--retain", str(records / "retain.jsonl"), *own]


def stages(words: Sequence[str], out: Path) -> dict[str, float]:
    """Run the command and read when its stages begin.

    Args:
        words: MODEL and options.
        out: The output directory to make.

    Returns:
        Seconds by stage in their order, `total` last.

    Raises:
        RuntimeError: The command failed.
    """
    command = [sys.executable, "-m", "vkdsurgeon_cli", "unlearn", *words, "-o", str(out), "--progress", "jsonl"]
    started = time.time()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=dict(os.environ))
    ended = time.time()
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    begun = [(one["stage"], datetime.fromisoformat(one["time"]).timestamp()) for one in events if "stage" in one]
    begun = [one for number, one in enumerate(begun) if number == 0 or one[0] != begun[number - 1][0]]
    ends = [when for _, when in begun[1:]] + [ended]
    found = {"starting": begun[0][1] - started}
    found |= {name: end - when for (name, when), end in zip(begun, ends, strict=True)}
    return {name: round(seconds, 2) for name, seconds in found.items()} | {"total": round(ended - started, 2)}


def main(words: Sequence[str] | None = None) -> None:
    """Print one JSON line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--real", type=Path, default=Path("cases/real"))
    parser.add_argument("--steps", type=int, default=10, help="of `small` and `vit-l`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {FILE.name}")
    chosen = parser.parse_args(words)
    for case in chosen.cases:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / case
            own = arguments_of(case, place, chosen.real, chosen.steps)
            seconds = stages([*own, "--device", chosen.device], Path(scratch) / "out")
        row: dict[str, Any] = {
            "operation": "stages",
            "case": case,
            "settings": " ".join(own[own.index("--steps") :]) if "--steps" in own else "default",
            "seconds": seconds,
            **provenance(torch.device(chosen.device)),
        }
        print(json.dumps(row), flush=True)
        if chosen.record:
            keep(FILE, [row], IDENTITY)


if __name__ == "__main__":
    main()
