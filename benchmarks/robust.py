"""What relearning brings back, by how forgetting was hardened: the table of docs/studies/hardening.md.

    python -m benchmarks.robust --name NAME [--set key=value ...] [--preset robust] [--seeds 0] [--final]
    python -m benchmarks.robust --table

One JSON line per setting and seed in benchmarks/results/robust.jsonl, on the built-in miniature and held-out views. The
attack is `vkdsurgeon attack relearn --protocol pairs`: tower and projector are fine-tuned on half of the kinds of
question about each forgotten person, the other half is measured. `--final` adds shorter and faster attacks, other
people, benign tuning on retain questions, and the whole retain set.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import provenance
from vkdsurgeon.attacks.finetune import fine_tune, trainable
from vkdsurgeon.attacks.relearn import Relearning, relearn
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.config import Recipe, load_recipe
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.data.pictures import pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.data.sets import NamedSet, read_set, sample
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.run import Job, operate, prepare

ROWS = provenance.RESULTS / "robust.jsonl"
STEPS, LR, LIMIT = 60, 3e-4, 300
SCORING = Scoring(batch_size=128)


class Laboratory:
    """The miniature and what is measured on it.

    Args:
        place: Where it is unpacked.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.records = place, place / "records"
        self.base, self.gold = place / "base", place / "gold"

    def set(self, name: str) -> NamedSet:
        """One of the miniature's sets."""
        return read_set(name, self.records / f"{name}.jsonl")

    def unlearn(self, recipe: Recipe, seed: int) -> tuple[Path, dict[str, Any]]:
        """Unlearn; the checkpoint and what the run said of itself."""
        sets = [
            pictures_of(read_records(self.records / f"{name}.jsonl", role=name), role=name)
            for name in ("forget", "retain")
        ]
        started = time.monotonic()
        prepared = prepare(Job(self.base, *sets, [], recipe, seed=seed))
        outcome = operate(prepared, unheard)
        seconds = time.monotonic() - started
        out = Path(tempfile.mkdtemp(dir=self.place)) / "unlearned"
        write_patched(prepared.stack.inventory, outcome.changes, out)
        verdict = outcome.verdicts[-1]
        return out, {
            "unlearn_seconds": round(seconds, 1),
            "selected_elements": outcome.mask.count,
            "forget_ratio": round(verdict.forget_ratio, 4),
            "retain_drift": round(verdict.retain_drift, 4),
            "stop_rule_met": verdict.met,
        }

    def measure(self, model: Path, seed: int, *, final: bool) -> dict[str, Any]:
        """Accuracies of a checkpoint as it is, and what attacks bring back."""
        loaded = load_model(model, device="cpu", dtype="float32")
        kept = self.set("retain_heldout").records
        row: dict[str, Any] = {
            "forget": accuracy(loaded, self.set("forget_heldout").records, "vqa", "vqa.name", "general"),
            "retain": accuracy(loaded, kept if final else sample(kept, LIMIT, 0), "vqa", "general"),
        }
        del loaded
        row["pairs_60"] = self.attack(model, seed, STEPS, LR)
        if final:
            row["pairs_15"] = self.attack(model, seed, 15, LR)
            row["pairs_60_lr_1e-3"] = self.attack(model, seed, STEPS, 1e-3)
            row["people_60"] = self.attack(model, seed, STEPS, LR, protocol="people")
            loaded = load_model(model, device="cpu", dtype="float32")
            settings = {"steps": STEPS, "lr": LR, "batch_size": 32, "seed": seed}
            list(fine_tune(loaded, trainable(loaded, "visual"), self.set("retain").records, **settings))
            row["benign_60"] = accuracy(loaded, self.set("forget_heldout").records, "vqa", "vqa.name")
        return row

    def attack(self, model: Path, seed: int, steps: int, lr: float, protocol: Any = "pairs") -> dict[str, Any]:
        """One relearning attack: AG in points, accuracies before and after, and utility after."""
        result = relearn(
            Relearning(
                model=model,
                forget=self.set("forget"),
                heldout=self.set("forget_heldout"),
                retain=self.set("retain_heldout"),
                protocol=protocol,
                steps=steps,
                lr=lr,
                seed=seed,
                limit=LIMIT // 2,
                scoring=SCORING,
                device="cpu",
            )
        )
        values = {metric.id: metric.value for metric in result.metrics}
        row: dict[str, Any] = {"ag": round(float(values["relearn.ag"] or 0.0), 1)}
        for stage, name in (("before", "before.vqa"), ("after", "after.vqa"), ("retain_after", "retain.after.vqa")):
            row[stage] = round(float(values[f"relearn.{name}.accuracy"] or 0.0), 4)
        half = [point.values for point in result.curve if point.step == steps // 2]
        row["halfway"] = round(next(iter(half[0].values())) or 0.0, 4) if half else None
        return row


def accuracy(loaded: LoadedModel, records: Any, *groups: str) -> dict[str, float]:
    """Mean accuracy over the records of each group of tasks."""
    found: dict[str, list[float]] = {group: [] for group in groups}
    asked: list[Record] = list(records)
    for answer in answer_records(loaded, asked, SCORING):
        for group in set(groups_of(answer.record.task)) & found.keys():
            found[group].append(answer.values["accuracy"])
    return {group: round(sum(values) / len(values), 4) for group, values in found.items() if values}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one line per row in the order they were measured."""
    shown = ("setting", "seed", "name", "forget VQA", "general", "retain VQA", "drift", "pairs 60: after", "AG", "s")
    lines = [f"| {' | '.join(shown)} |", "|" + "-|" * len(shown)]
    for row in rows:
        shares = [row["forget"]["vqa.name"], row["forget"]["vqa"], row["forget"]["general"], row["retain"]["vqa"]]
        drift = f"{row['retain_drift']:.3f}" if "retain_drift" in row else ""
        attacked = row["pairs_60"]
        cells = [row["name"], str(row["seed"]), *(f"{100 * share:.1f}" for share in shares), drift]
        cells += [f"{100 * attacked['after']:.1f}", f"{attacked['ag']:.1f}", f"{row.get('unlearn_seconds', 0):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure one setting on some seeds, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="What the setting is called in the table; base and gold are measured as such.")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Recipe keys.")
    parser.add_argument("--preset", help="The preset that --set lies over.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--final", action="store_true", help="More attacks, and all retain questions.")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(provenance.read(arguments.out)))
        return
    if not arguments.name:
        parser.error("--name is needed")
    overrides = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "miniature"
        unpack(place)
        laboratory = Laboratory(place)
        for seed in arguments.seeds:
            row: dict[str, Any] = {
                "name": arguments.name,
                "seed": seed,
                "preset": arguments.preset,
                "overrides": overrides,
            }
            if arguments.name in ("base", "gold"):
                model = getattr(laboratory, arguments.name)
            else:
                model, facts = laboratory.unlearn(load_recipe(None, overrides, arguments.preset), seed)
                row |= facts
            row |= laboratory.measure(model, seed, final=arguments.final)
            row |= {"final": arguments.final, **provenance.provenance(torch.device("cpu"))}
            provenance.keep(arguments.out, [row], ["name", "seed", "final"])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
