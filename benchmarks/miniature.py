"""The default recipe on the built-in miniature, several seeds, held-out views: the figures of the README.

    python benchmarks/miniature.py [--seeds 0 1 2] [--preset robust] [--set key=value ...] [--no-retain]
                                   [--device cuda] [--out FILE]

One JSON line per seed. Attributes are also counted without the answers that a stand-in shares with the forgotten person
by chance: those say nothing about what is left. Gold is counted on the same questions.
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

from vkdsurgeon import EvalResult, Recipe, UnlearnResult, diff, evaluate, load_recipe, unlearn
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.config.preset import preset_names, preset_settings
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.results.evaluation import Example


def measure(
    place: Path, recipe: Recipe, seed: int, *, retain: bool, forget_teacher: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Unlearn with one seed and measure against base and gold.

    Args:
        place: Holds the unpacked miniature.
        recipe: The settings.
        seed: The seed.
        retain: Use the retain set; without it the built-in strangers.
        forget_teacher: Reference model of forget target `reference`.
        device: Where it is unlearned.

    Returns:
        One row of results; accuracies in [0, 1].
    """
    records, base, gold = place / "records", place / "base", place / "gold"
    role = "retain" if retain else "generic"
    kept: dict[str, Any] = {role: records / f"{role}.jsonl"}
    out = place / f"unlearned-{seed}"
    started = time.monotonic()
    run = unlearn(
        base,
        records / "forget.jsonl",
        out,
        **kept,
        recipe=recipe,
        seed=seed,
        forget_teacher=forget_teacher,
        device=device,
    )
    assert run.write is not None
    assert run.verdict is not None
    seconds = time.monotonic() - started - run.seconds["writing"]
    sets = {"forget": "forget_heldout", "retain": "retain_heldout", "text": "text"}
    result = evaluate(
        out,
        {name: records / f"{file}.jsonl" for name, file in sets.items()},
        base=base,
        gold=gold,
        include_examples=True,
    )
    difference = diff(base, out, digests=False)
    values = {metric.id: metric.value for metric in result.metrics}
    wanted = (
        "forget.vqa.accuracy",
        "forget.vqa.name.accuracy",
        "forget.general.accuracy",
        "retain.vqa.accuracy",
        "retain.general.accuracy",
        "text.text.accuracy",
    )
    row: dict[str, Any] = {"seed": seed, "unlearn_seconds": round(seconds, 1)}
    for metric in wanted:
        prefixes = {"base": "reference.", "unlearned": "", "gold": "gold."}
        row[metric.removesuffix(".accuracy")] = {
            name: round(values[prefix + metric] or 0.0, 4) for name, prefix in prefixes.items()
        }
    row["forget.attributes.no_coincidence"] = _without_coincidences(result, run)
    row |= {
        "text_answers_identical": values["text.text.agreement"],
        "text_likelihoods_identical": values["text.text.identical"],
        "language_tensors_identical": difference.language_identical,
        "selected_elements": run.selected_elements,
        "elements_changed": run.write.elements_changed,
        "forget_ratio": round(run.verdict.forget_ratio, 4),
        "retain_drift": round(run.verdict.retain_drift, 4),
        "stop_rule_met": run.verdict.met,
    }
    return row


def _without_coincidences(result: EvalResult, run: UnlearnResult) -> dict[str, float]:
    facts = {
        (example.subject, example.task): example.answer
        for example in result.examples
        if example.model == "model" and example.set in ("forget", "retain")
    }

    def counts(example: Example) -> bool:
        if example.set != "forget" or not example.task.startswith("vqa.") or example.task == "vqa.name":
            return False
        drawn = run.stand_ins.get(str(example.subject), ())
        return all(facts.get((other, example.task)) != example.answer for other in drawn)

    shares = {}
    for role, name in (("reference", "base"), ("model", "unlearned"), ("gold", "gold")):
        hits = [
            example.said == example.answer for example in result.examples if example.model == role and counts(example)
        ]
        shares[name] = round(sum(hits) / max(len(hits), 1), 4)
    return shares


def main() -> None:
    """Run the seeds and print one JSON line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", choices=preset_names())
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-retain", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    settings = {} if arguments.preset is None else preset_settings(arguments.preset)
    overrides = settings | {
        key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)
    }
    recipe = load_recipe(**overrides)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "miniature"
        unpack(place)
        for seed in arguments.seeds:
            row = measure(place, recipe, seed, retain=not arguments.no_retain, device=arguments.device)
            row |= {"overrides": overrides, "retain_set": not arguments.no_retain}
            row |= {"threads": torch.get_num_threads(), "versions": versions()}
            line = json.dumps(row)
            print(line, flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
