"""Does one rule train every tower? Towers alone, no language model: steps, drift, and what identities are read as.

    python -m benchmarks.towers [--towers random-128 trained-384 random-1024x24 shipped real] [--steps 40] [--out FILE]

`random-W` and `trained-W` are CLIP towers of width W and three layers (`xL` for others) behind a random projector; the
trained ones have learned to see on drawn strangers. `shipped` is the miniature of the package, `real` a pretrained
DINOv2-small (`python -m benchmarks.real build` makes it). All see the same drawn people, and the recipe is the default
but for the number of steps. One JSON line a tower.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import provenance
from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.model import Shape, save_checkpoint
from benchmarks.miniature_model.tower import train_tower
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Step
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate

TOWERS = ("random-128", "random-384", "random-1024", "trained-128", "trained-384", "shipped")
ROWS = provenance.RESULTS / "towers.jsonl"
_NAMED = re.compile(r"(random|trained)-(\d+)(?:x(\d+))?")
_LAYERS, _TRAINING = 3, 150
_SHOWN = (1, 2, 4, 8, 12, 20, 30, 40, 60, 80, 100, 150, 200)


def build_tower(name: str, place: Path) -> Path:
    """Write the checkpoint of a `random` or `trained` tower; its language model has one layer.

    Args:
        name: As `random-384` or `trained-384x12`.
        place: Directory that it goes into.

    Raises:
        UserError: There is no such tower.
    """
    found = _NAMED.fullmatch(name)
    if found is None:
        raise UserError("no such tower", where="--towers", value=name, expected="random-W, trained-W, shipped or real")
    width, layers = int(found[2]), int(found[3] or _LAYERS)
    torch.manual_seed(0)
    kind = KINDS["llava"]
    tokenizer = kind.build_tokenizer(["word"])
    shape = Shape(
        vision_width=width,
        # LLaVA reads the layer before the last.
        vision_layers=layers + 1,
        vision_inner=4 * width,
        vision_heads=max(width // 64, 2),
        language_width=width,
        language_layers=1,
        language_inner=64,
        language_heads=2,
    )
    model = kind.build_model(tokenizer, shape)
    if found[1] == "trained":
        state, _ = train_tower(shape, seed=0, strangers=200, views=4, steps=_TRAINING, learning_rate=5e-4)
        kind.tower_of(model).load_state_dict(state)
    save_checkpoint(model, kind.build_processor(tokenizer), place / name)
    return place / name


def unlearn(
    model: Path, records: Path, recipe: Recipe, people: int | None = None, modality: Modality = "image"
) -> dict[str, Any]:
    """Unlearn in memory.

    Args:
        model: The checkpoint.
        records: Directory with `forget.jsonl` and `retain.jsonl`.
        recipe: The settings.
        people: Most retained people, to save time.
        modality: What the tower takes in.

    Returns:
        For the row: the step size that was found and what it cost, drift and forget loss by step, and the verdict.
    """
    forget, retain = (_samples(records, role, modality) for role in ("forget", "retain"))
    if people is not None:
        names = list(dict.fromkeys(sample.subject for sample in retain))[:people]
        retain = [sample for sample in retain if sample.subject in names]
    steps: list[Step] = []
    started = time.process_time()
    prepared = prepare(Job(model, forget, retain, [], recipe, seed=0, modality=modality))
    outcome = operate(prepared, lambda event: steps.append(event.subject) if event.kind == "step" else None)
    assert outcome.step_size is not None
    return {
        "visual_parameters": prepared.plan.tower_parameters + prepared.plan.projector_parameters,
        "step_size": asdict(outcome.step_size),
        "most_drift": round(max(step.values["retain_drift"] for step in steps), 4),
        "by_step": {
            step.step: {
                "forget": round(step.values["forget_loss"] / steps[0].values["forget_loss"], 4),
                "drift": round(step.values["retain_drift"], 4),
            }
            for step in steps
            if step.step in _SHOWN
        },
        "targets": {layer: asdict(reading) for layer, reading in outcome.readings.items()},
        "verdict": asdict(outcome.verdict),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def _samples(records: Path, role: str, modality: Modality) -> list[Sample]:
    return samples_of(read_records(records / f"{role}.jsonl", role=role), role=role, modality=modality)


def _find(name: str, place: Path, cases: Path) -> Path:
    if name == "shipped":
        return place / "people" / "base"
    if name == "real":
        return cases / "real" / "composed"
    return build_tower(name, place)


def main(words: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.towers", description=__doc__.partition("\n")[0])
    parser.add_argument("--towers", nargs="+", default=list(TOWERS), metavar="TOWER")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--people", type=int, help="Most retained people.")
    parser.add_argument("--cases", type=Path, default=Path("cases"), help="Where `benchmarks.real build` put it.")
    parser.add_argument("--out", type=Path, default=ROWS)
    arguments = parser.parse_args(words)
    recipe = Recipe(steps=arguments.steps, extensions=0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        unpack(place / "people")
        for name in arguments.towers:
            found = unlearn(_find(name, place, arguments.cases), place / "people" / "records", recipe, arguments.people)
            row = {"tower": name, "steps": arguments.steps, "people": arguments.people, **found}
            row |= provenance.provenance(torch.device("cpu"))
            provenance.keep(arguments.out, [row], ("tower", "steps", "people"))
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
