"""Every attack of the package on the built-in miniature, unlearned by several methods, and on gold.

    python -m benchmarks.attacks --work DIR [--methods vkd,ga] [--seeds 0,1,2] [--attacks relearn-15,restore]
    python -m benchmarks.attacks --model mine=patched/ [--methods ""]
    python -m benchmarks.attacks --table [--seeds 0]

One JSON line per attack and model in benchmarks/results/attacks.jsonl; then the table, attack x method. DIR keeps the
unlearned models. What was measured on the same weights by the same commit is not measured again, so an interrupted
series goes on. Methods are those of `vkdsurgeon compare`, each at its defaults; `--model` takes models that were
unlearned elsewhere, from the miniature, in place of or beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.attacks.battery import BATTERY, BRINGING_BACK, Field, strike
from benchmarks.attacks.table import table
from vkdsurgeon import MethodResult, UnlearnResult, load_recipe, run_method, unlearn
from vkdsurgeon.baselines.registry import VKD
from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.comparison.methods import ComparedMethod, parse_names, parse_seeds
from vkdsurgeon.comparison.settings import recipe_of
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.data.read import read_records

ROWS = provenance.RESULTS / "attacks.jsonl"


def unlearned(each: ComparedMethod, place: Any, seed: int, work: Path) -> Path:
    """The miniature's base unlearned by a method at its defaults; found where an earlier run left it."""
    out, told = work / f"{each.name}-{seed}", work / f"{each.name}-{seed}.json"
    if out.is_dir() and told.is_file():
        return out
    given, _ = divide_text(read_records(place.records / "text.jsonl", role="text"))
    recipe = recipe_of(each, load_recipe())
    asked: dict[str, Any] = {"retain": place.records / "retain.jsonl", "recipe": recipe, "seed": seed, "device": "cpu"}
    if each.reads_text:
        asked["text"] = write_text(given, work / "text.jsonl")
    forget = place.records / "forget.jsonl"
    if each.method == VKD and "output_loss" not in recipe:
        run: UnlearnResult | MethodResult = unlearn(place.base, forget, out, **asked)
    else:
        run = run_method(each.method, place.base, forget, out, **asked)
    told.write_text(run.model_dump_json() + "\n")
    return out


def models_of(arguments: argparse.Namespace, place: Any, seed: int) -> Iterator[tuple[str, Path]]:
    """Base, gold and every asked model, by name; made when their turn comes."""
    yield "base", place.base
    yield "gold", place.gold
    for name, _, path in (text.partition("=") for text in arguments.model):
        yield name, Path(path)
    if arguments.methods:
        arguments.work.mkdir(parents=True, exist_ok=True)
        for each in parse_names(arguments.methods):
            yield each.name, unlearned(each, place, seed, arguments.work)


def main() -> None:
    """Attack what was not attacked yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="Keeps the unlearned models; needed with --methods.")
    parser.add_argument("--methods", default="vkd,ga", help='As `vkdsurgeon compare` takes them; "" for none.')
    parser.add_argument("--model", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--attacks", default=",".join(BATTERY), help="Some of: %(default)s.")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--limit", type=int, default=240, help="At most so many questions a set.")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true", help="Print what was measured, and measure nothing.")
    arguments = parser.parse_args()
    families = arguments.attacks.split(",")
    if unknown := [name for name in families if name not in BATTERY]:
        parser.error(f"no such attack: {unknown[0]}; there are {', '.join(BATTERY)}")
    if wrong := [text for text in arguments.model if not all(text.partition("=")[::2])]:
        parser.error(f"--model takes NAME=DIR, not {wrong[0]!r}")
    seeds = parse_seeds(arguments.seeds)
    if not arguments.table:
        if arguments.methods and arguments.work is None:
            parser.error("--work names the directory that keeps the unlearned models")
        for seed in seeds:
            measure(arguments, families, seed)
    print(table(provenance.read(arguments.out), seeds))


def measure(arguments: argparse.Namespace, families: list[str], seed: int) -> None:
    """All attacks of one seed."""
    with tempfile.TemporaryDirectory() as scratch:
        place = unpack(Path(scratch) / "miniature")
        field = Field.of(place.base, place.records, arguments.limit, seed)
        for name, root in models_of(arguments, place, seed):
            digest = weights_digest_of(root)
            for family in families:
                if name == "base" and family in BRINGING_BACK:
                    continue
                here = {**provenance.provenance(torch.device("cpu")), "method": name, "seed": seed, "weights": digest}
                if known(arguments.out, here, family, arguments.limit):
                    continue
                rows = [{**here, **row} for row in strike(family, root, field)]
                provenance.keep(arguments.out, rows, ["method", "seed", "what"])
                for row in rows:
                    shown = {key: row[key] for key in ("method", "seed", "what", "value", "utility", "seconds")}
                    print(json.dumps(shown), file=sys.stderr, flush=True)


def known(file: Path, here: dict[str, Any], family: str, limit: int) -> bool:
    """Whether these weights were attacked so by this very code."""
    if here["dirty"] is not False:
        return False
    same = {key: here[key] for key in ("method", "seed", "weights", "commit", "dirty", "versions", "device")}
    same |= {"family": family, "limit": limit}
    return any(all(row.get(key) == value for key, value in same.items()) for row in provenance.read(file))


if __name__ == "__main__":
    main()
