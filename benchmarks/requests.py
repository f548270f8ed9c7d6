"""Requests one after another: does what was forgotten stay forgotten, and what does a chain of runs cost?

    python -m benchmarks.requests [--place cases/real] [--requests 20] [--record]

Each request forgets one more person, without any image of those who were forgotten before. After each, held-out images
are asked for the names of all who were forgotten so far, and for everything about those who never are.

- `chain`: from the checkpoint that the request before left.
- `chain, base`: the same, with the base as teacher of the retain set (`--retain-teacher`).
- `replay`: from the base, with the activations of all earlier forget images (`--save-replay`, `--replay`).
- `at once`: the control, all of them in one run from the base, with all images.

Without `--place` the built-in miniature is taken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vkdsurgeon
from benchmarks.provenance import RESULTS, keep, provenance
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record

FILE = RESULTS / "requests.jsonl"
IDENTITY = ("operation", "place", "way", "request", "of", "seed")
WAYS = ("chain", "chain, base", "replay", "at once")
# Held-out images per person, and people who are never forgotten whose images are asked about.
_VIEWS, _KEPT = 4, 24


class People:
    """Everybody of a case, whichever set they come in.

    Args:
        place: Directory with `base` and `records`.
    """

    def __init__(self, place: Path) -> None:
        self.base = place / "base"
        self.shown, self.held_out = (
            [
                record
                for role in ("forget", "retain")
                for record in read_records(place / "records" / f"{role}{ending}.jsonl", role=role)
            ]
            for ending in ("", "_heldout")
        )
        first = {record.subject: None for record in read_records(place / "records" / "forget.jsonl", role="forget")}
        everybody = sorted({str(record.subject) for record in self.shown} - {str(name) for name in first})
        random.Random(0).shuffle(everybody)
        self.order = [*map(str, first), *everybody]

    def of(self, names: Sequence[str], records: Sequence[Record]) -> list[Record]:
        """Their records."""
        wanted = set(names)
        return [record for record in records if record.subject in wanted]

    def measure(self, model: Path, forgotten: Sequence[str], last: int) -> dict[str, float]:
        """Share of names that are known of the forgotten, and of right answers about those who never are."""
        about = [each for each in self.of(forgotten, self._few()) if each.task == "vqa.name"]
        kept = self.of(self.order[last : last + _KEPT], self._few())
        found = vkdsurgeon.evaluate(model, {"forget": about, "retain": kept}, device="cpu", dtype="float32")
        return {
            "name": round(found.value("forget.vqa.name.accuracy"), 4),
            "retain": round(found.value("retain.vqa.accuracy"), 4),
            "names_asked": len(about),
            "retain_asked": len(kept),
        }

    def _few(self) -> list[Record]:
        views: dict[Any, dict[Any, None]] = {}
        for record in self.held_out:
            views.setdefault(record.subject, {}).setdefault(record.image)
        return [each for each in self.held_out if each.image in list(views[each.subject])[:_VIEWS]]


def in_turn(people: People, count: int, folder: Path, seed: int, way: str) -> Sequence[Mapping[str, Any]]:
    """Requests one after another.

    Args:
        people: Everybody.
        count: How many requests.
        folder: Where checkpoints go; two at a time.
        seed: Of all runs.
        way: One of `WAYS`, but the last.

    Returns:
        A row per request, the base as request 0.
    """
    rows: list[dict[str, Any]] = [{"request": 0, **people.measure(people.base, people.order[:count], count)}]
    print(json.dumps(rows[0]), flush=True)
    left, files = people.base, folder / "replay"
    files.mkdir()
    for number in range(1, count + 1):
        forgotten, out = people.order[:number], folder / f"{number}"
        kept: dict[str, Any] = {"retain_teacher": people.base} if way == "chain, base" else {}
        if way == "replay":
            kept = {"replay": files} if number > 1 else {}
            kept |= {"save_replay": files / f"{number:03}.safetensors"}
        start = people.base if way == "replay" else left
        found = _unlearn(people, start, forgotten[-1:], forgotten, out, seed, **kept)
        first = people.measure(out, forgotten[-1:], count)["name"]
        rows.append({"request": number, **people.measure(out, forgotten, count), "own_name": first, **found})
        print(json.dumps(rows[-1]), flush=True)
        if left != people.base:
            shutil.rmtree(left)
        left = out
    return rows


def at_once(people: People, count: int, folder: Path, seed: int) -> Mapping[str, Any]:
    """The control: all requests in one run from the base."""
    forgotten = people.order[:count]
    found = _unlearn(people, people.base, forgotten, forgotten, folder / "merged", seed)
    return {"request": count, **people.measure(folder / "merged", forgotten, count), **found}


def _unlearn(
    people: People, model: Path, now: Sequence[str], gone: Sequence[str], out: Path, seed: int, **kept: Any
) -> dict[str, Any]:
    others = [name for name in people.order if name not in gone]
    result = vkdsurgeon.unlearn(
        model,
        people.of(now, people.shown),
        out,
        retain=people.of(others, people.shown),
        seed=seed,
        device="cpu",
        **kept,
    )
    return {"stop_rule_met": result.passed, "seconds": round(sum(result.seconds.values()), 1)}


def main(words: Sequence[str] | None = None) -> None:
    """Print a JSON line per request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.add_argument("--place", type=Path, help="directory with base and records")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {FILE.name}")
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if chosen.place is None:
            unpack(folder / "miniature")
        people = People(chosen.place or folder / "miniature")
        found = {}
        for way in chosen.ways:
            place = folder / way
            place.mkdir()
            found[way] = (
                [at_once(people, chosen.requests, place, chosen.seed)]
                if way == "at once"
                else in_turn(people, chosen.requests, place, chosen.seed, way)
            )
    shared = {
        "operation": "requests",
        "place": "miniature" if chosen.place is None else chosen.place.name,
        "of": chosen.requests,
        "seed": chosen.seed,
        **provenance(torch.device("cpu")),
    }
    rows = [{**shared, "way": way, **row} for way, each in found.items() for row in each]
    print(json.dumps(rows[-1]), flush=True)
    if chosen.record:
        keep(FILE, rows, IDENTITY)


if __name__ == "__main__":
    main()
