"""Images per second of unlearning, end to end: this project's loop, a plain PyTorch loop, and the usual way.

    python -m benchmarks.end_to_end [--size tiny|small|vit-b|vit-l] [--device cpu|cuda] [--record]

All three train the same tower of a random LLaVA on the same images, towards the same kind of targets, under the same
mask, a few steps each in turns:

- `ours`: `vkdsurgeon.vision_pass.trainer.train`; the teacher's features, and what frozen layers return, were computed
  once.
- `plain loop`: the same recipe as one would write it, the same two layers and projector trained: the teacher runs every
  step, the loss is the formula, the gradient is masked, `torch.optim.AdamW(fused=True)` moves everything and the frozen
  elements are put back.
- `usual way`: as the plain loop, but with the language model loaded, and the loss between the outputs of student and
  teacher at the end of it (KL divergence of the next token, as output-level distillation does).

All compute in the precision that `--dtype auto` of `unlearn` chooses.

Before anything is timed, the first two must agree on the loss of the first step, and all must leave frozen elements
alone. One row per way goes to benchmarks/results/end_to_end.jsonl with `--record`. The breakdown is in seconds per
step, from extra steps that are not part of the rate; `forward` is the tower's, and in the usual way the language
model's too.

`run_seconds` is computed from what was measured: a default run on 40 forget and 200 retain images, 300 steps of 48
images, for `ours` with the teacher's pass over these images and their four copies. Simulated attacks are in none of the
three; all are granted the same number of steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from vkdsurgeon_kernels import choose
from vkdsurgeon_kernels.bitmask import BitMask

from benchmarks.end_to_end.case import LAYER, SIZES, Size, build, draw_images, with_language_model
from benchmarks.end_to_end.ours import Ours
from benchmarks.end_to_end.plain import plain_loop, usual_way
from benchmarks.end_to_end.rates import check, digits, measure
from benchmarks.end_to_end.stopwatch import Silent
from benchmarks.provenance import RESULTS, keep, provenance
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.training.saliency import random_scores, select
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.prepare import prepare

SCHEMA = "vkdsurgeon/end-to-end/1"
FILE = RESULTS / "end_to_end.jsonl"
IDENTITY = ("case", "provider", "language_parameters")
_DECAY = 0.01
_ROUNDS = {"tiny": 3, "small": 5, "vit-b": 3, "vit-l": 9}
# Of the run that `run_seconds` is about: images in all steps, and images with their copies.
_DRAWN, _SHOWN = 300 * 48, 5 * (40 + 200)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check, measure, print one JSON line per way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--forget", type=int, help="forget images per step")
    parser.add_argument("--retain", type=int, help="retain images per step")
    parser.add_argument("--steps", type=int, default=1, help="per round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--language-layers", type=int, help="of the language model; default: as LLaVA-1.5-7B at vit-l")
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {FILE.name}")
    chosen = parser.parse_args(arguments)
    if chosen.record and chosen.size == "tiny":
        parser.error("--record keeps figures, and those of --size tiny mean nothing")
    device = torch.device(chosen.device)
    torch.set_num_threads(chosen.threads)
    shape = SIZES[chosen.size]
    forget, retain = chosen.forget or shape.forget, chosen.retain or shape.retain
    shape = Size(**{**vars(shape), "forget": forget, "retain": retain})
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = build(place / "model", shape)
        sets = [
            draw_images(place / name, name, range(start, start + count), shape.side)
            for name, start, count in (("forget", 0, forget), ("retain", 1000, retain))
        ]
        recipe = Recipe(weight_decay=_DECAY, forget_batch=forget, retain_batch=retain)
        prepared = prepare(Job(place / "model", *sets, [], recipe, device=device, mixed=None))
        parameters = prepared.stack.visual_parameters()
        # Weights that the features do not depend on have no gradient, in no way.
        names = _reached(prepared)
        mask = select(parameters, random_scores(parameters, names, torch.Generator().manual_seed(0)), recipe.density)
        masks = {
            name: (one.to_bool() if isinstance(one, BitMask) else one).to(device) for name, one in mask.selected.items()
        }
        ours = Ours(prepared, masks, shape, mask)
        whole = with_language_model(model, shape, chosen.language_layers or shape.text_layers, device)
        ways = {"ours": ours, "plain loop": plain_loop(ours), "usual way": usual_way(ours, whole)}
        for way in ways.values():
            way.steps(1, Silent(device))
        check(ways)
        rows = measure(ways, forget + retain, chosen.steps, chosen.rounds or _ROUNDS[chosen.size], device)
        for row in rows:
            teacher = _SHOWN * ours.teacher_seconds / (forget + retain) if row["provider"] == "ours" else 0.0
            row["run_seconds"] = digits(_DRAWN / row["images_per_second"] + teacher)
    visual = sum(parameter.numel() for parameter in parameters.values())
    shared = {
        "schema": SCHEMA,
        "operation": "end_to_end",
        "case": f"{chosen.size}, {forget} + {retain} pictures per step",
        "dtype": prepared.stack.precision,
        "density": recipe.density,
        "visual_parameters": visual,
        "language_parameters": sum(parameter.numel() for parameter in whole.parameters()) - visual,
        "implementations": {
            name: choose(name, device, visual).implementation for name in ("feature_distillation", "masked_adamw")
        },
    }
    rows = [{**shared, **row, **provenance(device)} for row in rows]
    for row in rows:
        print(json.dumps(row))
    if chosen.record:
        keep(FILE, rows, IDENTITY)
    return 0


def _reached(prepared: Prepared) -> list[str]:
    stack = prepared.stack
    _, images = next(iter(prepared.forget.batches([0], 1)))
    stack.features(images, (LAYER,))[LAYER].float().square().sum().backward()
    parameters = stack.visual_parameters()
    names = [name for name, parameter in parameters.items() if parameter.grad is not None]
    for parameter in parameters.values():
        parameter.grad = None
    return names


if __name__ == "__main__":
    sys.exit(main())
