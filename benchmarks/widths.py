"""Do the same settings give the same trajectory on towers of any width? Random LLaVA checkpoints, drawn people.

    python benchmarks/widths.py [--widths 128 384 1024] [--layers 3] [--steps 60] [--step-size 0.2] [--out rows.jsonl]

One JSON line per width: forget ratio (forget loss over its value at the first step) and retention drift by step. The
towers are random and the same drawn people are shown to all of them; `--plain-lr` gives every element one learning rate
instead, which is what the relative step size replaces.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vkdsurgeon import unlearn
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.pictures import pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.personas import unpack
from vkdsurgeon.personas.kinds import KINDS
from vkdsurgeon.personas.model import Shape, save_checkpoint
from vkdsurgeon.recipe import Recipe
from vkdsurgeon.recipe.preset import preset_settings
from vkdsurgeon.surgery import Job, operate, prepare
from vkdsurgeon.unlearn import Step

_SHOWN = (1, 3, 5, 8, 12, 20, 30, 40, 60, 80, 100, 150, 200)


def random_checkpoint(place: Path, width: int, layers: int) -> Path:
    """Write a random LLaVA whose tower and projector have the given width; `layers` lie below the feature layer."""
    torch.manual_seed(0)
    kind = KINDS["llava"]
    tokenizer = kind.build_tokenizer(["word"])
    shape = Shape(
        vision_width=width,
        vision_layers=layers + 1,
        vision_inner=4 * width,
        vision_heads=max(width // 64, 2),
        language_width=width,
        language_layers=1,
        language_inner=64,
        language_heads=2,
    )
    out = place / f"width-{width}"
    save_checkpoint(kind.build_model(tokenizer, shape), kind.build_processor(tokenizer), out)
    return out


def trajectory(model: Path, records: Path, recipe: Recipe) -> dict[str, Any]:
    """Unlearn in memory and note how both losses went."""
    forget = pictures_of(read_records(records / "forget.jsonl", role="forget"), role="forget")
    retain = pictures_of(read_records(records / "retain.jsonl", role="retain"), role="retain")
    steps: list[Step] = []
    started = time.monotonic()
    prepared = prepare(Job(model, forget, retain, [], recipe, seed=0))
    outcome = operate(prepared, lambda _, event: steps.append(event) if isinstance(event, Step) else None)
    first = steps[0].forget_loss
    return {
        "visual_parameters": prepared.plan.tower_parameters + prepared.plan.projector_parameters,
        "by_step": {
            step.step: {"forget_ratio": round(step.forget_loss / first, 4), "drift": round(step.retain_drift, 4)}
            for step in steps
            if step.step in _SHOWN
        },
        "held_out_forget_ratio": round(outcome.verdict.forget_ratio, 4),
        "held_out_drift": round(outcome.verdict.retain_drift, 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 384, 1024])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--step-size", type=float, default=0.2)
    parser.add_argument("--plain-lr", type=float)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    plain = arguments.plain_lr
    # With every unit step equal to the learning rate, a step size of one makes it the learning rate.
    recipe = Recipe.model_validate(
        {
            **preset_settings("quick"),
            "steps": arguments.steps,
            "step_size": 1.0 if plain else arguments.step_size,
            "extensions": 0,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        unpack(place / "people")
        for width in arguments.widths:
            model = random_checkpoint(place, width, arguments.layers)
            with mock.patch.object(unlearn, "unit_step", (lambda _: plain) if plain else unlearn.unit_step):
                row = trajectory(model, place / "people" / "records", recipe)
            settings = {"plain_lr": plain} if plain else {"step_size": arguments.step_size}
            row = {"width": width, "layers": arguments.layers, "steps": arguments.steps, **settings, **row}
            row |= {"threads": torch.get_num_threads(), "versions": versions()}
            print(json.dumps(row), flush=True)
            if arguments.out:
                with arguments.out.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
