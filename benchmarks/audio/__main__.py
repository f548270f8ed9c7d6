"""Do models forget a voice as they forget a face?

    python -m benchmarks.audio voices [--steps N] [--cases DIR]
    python -m benchmarks.audio whisper [--steps N] [--cases DIR]

`voices`: a small Qwen2-Audio learns twenty invented voices, three of them are forgotten, and base, gold and the patched
model are asked about takes that none has heard. `whisper`: the encoder of Whisper-base, pretrained, behind it a random
projector; steps, drift and what identities are read as, as `benchmarks.towers` has them. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import vkdsurgeon
from benchmarks import provenance, towers
from benchmarks.audio import whisper
from benchmarks.audio.model import build, train
from benchmarks.audio.voices import NAMES, write_takes
from vkdsurgeon.config.recipe import Recipe

ROWS = provenance.RESULTS / "audio.jsonl"
_FORGET, _RETAIN = range(3), range(3, len(NAMES))
# Takes that the models learn from, those of them that are unlearned with, new ones that are asked about.
_TAKES, _GIVEN, _ASKED, _TRAINING = 40, 16, 8, 700


def voices(place: Path, steps: int | None) -> dict[str, Any]:
    """Train base and gold, unlearn, and ask all three; what is there already stays.

    Args:
        place: Where models and clips go.
        steps: Optimizer steps of unlearning; None leaves them to the recipe.
    """
    speakers = {"forget": _FORGET, "retain": _RETAIN}

    def takes(kind: str, numbers: range) -> dict[str, Path]:
        return {role: write_takes(place / kind, role, who, numbers) for role, who in speakers.items()}

    known, given = takes("known", range(_TAKES)), takes("given", range(_GIVEN))
    asked = takes("asked", range(_TAKES, _TAKES + _ASKED))
    for name, taught in (("base", list(known.values())), ("gold", [known["retain"]])):
        if not (place / name).exists():
            train(build(place / f"{name}.partial"), taught, steps=_TRAINING)
            (place / f"{name}.partial").rename(place / name)
    # A run of another length is another model.
    patched, started = place / f"patched-{steps or 'default'}", time.process_time()
    recipe = {} if steps is None else {"steps": steps, "extensions": 0}
    run = vkdsurgeon.unlearn(
        place / "base", given["forget"], patched, retain=given["retain"], recipe=recipe, modality="audio", device="cpu"
    )
    seconds = time.process_time() - started
    difference = vkdsurgeon.diff(place / "base", patched, modality="audio")
    answers = {name: vkdsurgeon.evaluate(place / name, asked, device="cpu") for name in ("base", "gold", patched.name)}
    return {
        "case": "voices",
        "language_identical": difference.language_identical,
        "verdict": asdict(run.verdict) if run.verdict else None,
        "accuracy": {
            name.partition("-")[0]: {
                metric.id: {"value": metric.value, "n": metric.n}
                for metric in found.metrics
                if metric.id.endswith(("name.accuracy", "vowel.accuracy"))
            }
            for name, found in answers.items()
        },
        "cpu_seconds": round(seconds, 1),
    }


def real(place: Path, steps: int | None) -> dict[str, Any]:
    """Unlearn voices in Whisper's encoder, in memory.

    Args:
        place: Where wheels, model and clips go.
        steps: Optimizer steps; None for 20.
    """
    for name, speakers in (("forget", range(3)), ("retain", range(3, 11))):
        write_takes(place / "few", name, speakers, range(6))
    model = place / "whisper"
    if not model.exists():
        whisper.compose(place / "wheels", place / "whisper.partial").rename(model)
    recipe = Recipe(steps=steps or 20, extensions=0, copies=1, forget_batch=8, retain_batch=8)
    return {"case": "whisper", **towers.unlearn(model, place / "few", recipe, modality="audio")}


def main(words: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.audio", description=__doc__.partition("\n")[0])
    parser.add_argument("case", choices=("voices", "whisper"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cases", type=Path, default=Path("cases"), metavar="DIR", help="It all goes to DIR/audio.")
    parser.add_argument("--out", type=Path, default=ROWS)
    arguments = parser.parse_args(words)
    row = {"voices": voices, "whisper": real}[arguments.case](arguments.cases / "audio", arguments.steps)
    row |= {"steps": arguments.steps, **provenance.provenance(torch.device("cpu"))}
    provenance.keep(arguments.out, [row], ("case", "steps"))
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
