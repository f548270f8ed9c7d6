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
from vkdsurgeon import Recipe, RelearnResult, attack, evaluate, load_recipe, unlearn
from vkdsurgeon.data.miniature import unpack

ROWS = provenance.RESULTS / "robust.jsonl"
STEPS, LR, LIMIT = 60, 3e-4, 300


class Laboratory:
    """The miniature and what is measured on it.

    Args:
        place: Where it is unpacked.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.records = place, place / "records"
        self.base, self.gold = place / "base", place / "gold"

    def set(self, name: str) -> Path:
        """One of the miniature's sets."""
        return self.records / f"{name}.jsonl"

    def unlearn(self, recipe: Recipe, seed: int) -> tuple[Path, dict[str, Any]]:
        """Unlearn; the checkpoint and what the run said of itself."""
        out = Path(tempfile.mkdtemp(dir=self.place)) / "unlearned"
        started = time.monotonic()
        run = unlearn(
            self.base, self.set("forget"), out, retain=self.set("retain"), recipe=recipe, seed=seed, device="cpu"
        )
        assert run.verdict is not None
        seconds = time.monotonic() - started - run.seconds["writing"]
        return out, {
            "unlearn_seconds": round(seconds, 1),
            "selected_elements": run.selected_elements,
            "forget_ratio": round(run.verdict.forget_ratio, 4),
            "retain_drift": round(run.verdict.retain_drift, 4),
            "stop_rule_met": run.verdict.met,
        }

    def measure(self, model: Path, seed: int, *, final: bool) -> dict[str, Any]:
        """Accuracies of a checkpoint as it is, and what attacks bring back."""
        row: dict[str, Any] = {
            "forget": self.accuracy(model, "forget", None, "vqa", "vqa.name", "general"),
            "retain": self.accuracy(model, "retain", None if final else LIMIT, "vqa", "general"),
            "pairs_60": self.attack(model, seed, STEPS, LR),
        }
        if final:
            row["pairs_15"] = self.attack(model, seed, 15, LR)
            row["pairs_60_lr_1e-3"] = self.attack(model, seed, STEPS, 1e-3)
            row["people_60"] = self.attack(model, seed, STEPS, LR, protocol="people")
            benign = self.relearn(model, seed, STEPS, LR, protocol="benign", fraction=1.0, benign=self.set("retain"))
            names = {name: benign.value(f"relearn.after.{name}.accuracy") for name in ("vqa", "vqa.name")}
            row["benign_60"] = {name: round(value or 0.0, 4) for name, value in names.items()}
        return row

    def accuracy(self, model: Path, name: str, limit: int | None, *groups: str) -> dict[str, float]:
        """Share of right answers to the held-out questions of a set, by group of tasks."""
        found = evaluate(model, {name: self.set(f"{name}_heldout")}, limit=limit, batch_size=128, device="cpu")
        values = {group: found.value(f"{name}.{group}.accuracy") for group in groups}
        return {group: round(value or 0.0, 4) for group, value in values.items()}

    def relearn(self, model: Path, seed: int, steps: int, lr: float, **settings: Any) -> RelearnResult:
        """One relearning attack on tower and projector."""
        found = attack(
            "relearn",
            model,
            self.set("forget"),
            retain=self.set("retain_heldout"),
            settings={
                "heldout": self.set("forget_heldout"), "steps": steps, "lr": lr, "seeds": seed, "limit": LIMIT // 2,
                **settings,
            },
            device="cpu",
        )  # fmt: skip
        assert isinstance(found, RelearnResult)
        return found

    def attack(self, model: Path, seed: int, steps: int, lr: float, protocol: str = "pairs") -> dict[str, Any]:
        """One relearning attack: AG in points, accuracies before and after, and utility after."""
        result = self.relearn(model, seed, steps, lr, protocol=protocol)
        row: dict[str, Any] = {"ag": round(result.value("relearn.ag") or 0.0, 1)}
        for stage, name in (("before", "before.vqa"), ("after", "after.vqa"), ("retain_after", "retain.after.vqa")):
            row[stage] = round(result.value(f"relearn.{name}.accuracy") or 0.0, 4)
        half = [point.values for point in result.curve if point.step == steps // 2]
        row["halfway"] = round(next(iter(half[0].values())) or 0.0, 4) if half else None
        return row


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
                model, facts = laboratory.unlearn(load_recipe(preset=arguments.preset, **overrides), seed)
                row |= facts
            row |= laboratory.measure(model, seed, final=arguments.final)
            row |= {"final": arguments.final, **provenance.provenance(torch.device("cpu"))}
            provenance.keep(arguments.out, [row], ["name", "seed", "final"])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
