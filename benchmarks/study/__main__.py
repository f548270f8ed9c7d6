"""The command line of the study."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.styles import STYLES
from benchmarks.study.attacks import GRID, QUICK
from benchmarks.study.cases import FORGET_SETS, SEEDS, SHIPPED, Case, Role, fits, minted, role_of
from benchmarks.study.charts import FRONTIER, INSTALL, RELEARNING, draw
from benchmarks.study.mint import mint, unpack_shipped
from benchmarks.study.recipes import load
from benchmarks.study.run import ROWS, run
from benchmarks.study.table import tables
from vkdsurgeon.config.shard import shard_of
from vkdsurgeon.errors import UserError

HERE = Path(__file__).parent
CASES = HERE.parents[1] / "cases"


def main(words: list[str] | None = None) -> None:
    """Mint cases, fill the results, print or draw them."""
    parser = argparse.ArgumentParser(prog="benchmarks.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    minting = commands.add_parser("mint", help="Make the cases of every combination given; what is there stays.")
    minting.add_argument("--kind", nargs="+", default=[], metavar="KIND", help=", ".join(KINDS))
    minting.add_argument("--style", nargs="+", default=list(STYLES), metavar="STYLE", help=", ".join(STYLES))
    minting.add_argument("--forget-set", nargs="+", default=list(FORGET_SETS), metavar="SET")
    minting.add_argument("--seed", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    minting.add_argument("--shipped", action="store_true", help="Also unpack the miniature of the package.")
    minting.add_argument("--out", type=Path, default=CASES)

    running = commands.add_parser("run", help="Measure recipes on cases; rows that are there are skipped.")
    running.add_argument("--recipes", nargs="+", type=Path, default=[HERE / "recipes" / "default.yaml"])
    running.add_argument("--cases", type=Path, default=CASES, help="Where `mint` put them.")
    running.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="Names of cases.")
    running.add_argument("--seeds", nargs="+", type=int, default=[0], help="Of unlearning and attacks.")
    running.add_argument("--quick", action="store_true", help=", ".join(attack.name for attack in QUICK))
    running.add_argument("--attacks", nargs="*", metavar="PATTERN", help=", ".join(attack.name for attack in GRID))
    running.add_argument("--out", type=Path, default=ROWS)
    running.add_argument("--keep", type=Path, metavar="DIR", help="Keep patched checkpoints there for later attacks.")

    running.add_argument("--shard", metavar="I/N", help="Row k of all belongs to shard k mod N; give each its --out.")

    printing = commands.add_parser("table", help="Print the tables of what was measured, as Markdown.")
    printing.add_argument("--rows", type=Path, default=ROWS)
    printing.add_argument("--against", default="default", metavar="RECIPE", help="What other recipes are paired with.")
    printing.add_argument("--recipes", nargs="+", default=["*"], metavar="PATTERN", help="Names of recipes to show.")
    printing.add_argument("--summary", action="store_true", help="One line per recipe, and how long they took.")

    drawing = commands.add_parser(
        "figure",
        help=f"Draw what was measured: {FRONTIER} and {RELEARNING}.",
        description=f"Draw {FRONTIER}, what is forgotten against what is kept, and {RELEARNING}, what comes back. "
        f"Needs matplotlib, which only the extras figures and dev install: {INSTALL}.",
    )
    drawing.add_argument(
        "--rows", nargs="+", type=Path, default=[ROWS], metavar="FILE", help="Rows, of the same checkpoints."
    )
    drawing.add_argument(
        "--role", choices=get_args(Role), default="reporting", help="Which cases; reporting, if not given."
    )
    drawing.add_argument("--recipes", nargs="+", default=["*"], metavar="PATTERN", help="Names of recipes to draw.")
    drawing.add_argument(
        "--relearning", nargs="+", default=["*"], metavar="PATTERN", help=f"Of them, those in {RELEARNING}."
    )
    drawing.add_argument(
        "--out",
        type=Path,
        default=HERE.parents[1] / "docs" / "studies",
        metavar="DIR",
        help="docs/studies/, if not given.",
    )

    arguments = parser.parse_args(words)
    try:
        {"mint": _mint, "run": _run, "table": _table, "figure": _figure}[arguments.command](arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _mint(arguments: argparse.Namespace) -> None:
    if arguments.shipped:
        unpack_shipped(arguments.out)
    cases = [
        Case(kind, style, forget_set, seed)
        for kind in arguments.kind or ([] if arguments.shipped else list(KINDS))
        for style in arguments.style
        for forget_set in arguments.forget_set
        for seed in arguments.seed
    ]
    for case in cases:
        mint(case, arguments.out, tell=_tell)


def _run(arguments: argparse.Namespace) -> None:
    recipes = dict(load(file) for file in arguments.recipes)
    places = [place for place in minted(arguments.cases) if fits(place.name, arguments.only)]
    if not places:
        raise UserError(
            "there is no such case",
            where=arguments.cases,
            value=" ".join(arguments.only),
            expected=f"{SHIPPED}, or KIND-STYLE-FORGETSET-SEED",
            remedy="make it first: python -m benchmarks.study mint",
        )
    for place in places:
        role_of(place.name)
    chosen = QUICK if arguments.quick else GRID
    if arguments.attacks is not None:
        chosen = tuple(each for each in GRID if fits(each.name, arguments.attacks))
        if arguments.attacks and not chosen:
            raise UserError(
                "no such attack",
                where="--attacks",
                value=" ".join(arguments.attacks),
                expected=", ".join(attack.name for attack in GRID),
            )
    shard = shard_of(arguments.shard)
    run(places, recipes, arguments.seeds, chosen, out=arguments.out, keep=arguments.keep, shard=shard, tell=_tell)


def _table(arguments: argparse.Namespace) -> None:
    print(tables(arguments.rows, arguments.against, arguments.recipes, summary=arguments.summary))


def _figure(arguments: argparse.Namespace) -> None:
    for file in draw(arguments.rows, arguments.out, arguments.role, arguments.recipes, arguments.relearning):
        print(file)


if __name__ == "__main__":
    main()
