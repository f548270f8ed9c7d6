"""Do models forget a voice as they forget a face?

    python -m benchmarks.audio voices [--set KEY=VALUE ...] [--cases DIR]
    python -m benchmarks.audio whisper [--set KEY=VALUE ...] [--cases DIR]

`voices`: a small Qwen2-Audio learns twenty invented voices, three of them are forgotten, and base, gold and the patched
model are asked about takes that none has heard. `whisper`: the encoder of Whisper-base, pretrained, behind it a random
projector; steps, drift and what identities are read as, as `benchmarks.towers` has them. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
from vkdsurgeon.config.keys import parse_settings
from vkdsurgeon.config.recipe import Recipe

ROWS = provenance.RESULTS / "audio.jsonl"
_FORGET, _RETAIN = range(3), range(3, len(NAMES))
# Takes that the models learn from, those of them that are unlearned with, new ones that are asked about.
_TAKES, _GIVEN, _ASKED, _TRAINING = 40, 16, 8, 700


def voices(place: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train base and gold, unlearn, and ask all three; what is there already stays.

    Args:
        place: Where models and clips go.
        settings: Keys of the recipe that differ from the default.
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
    patched, started = place / "patched", time.process_time()
    for stale in (patched, place / "patched.journal"):
        shutil.rmtree(stale, ignore_errors=True)
    run = vkdsurgeon.unlearn(
        place / "base",
        given["forget"],
        patched,
        retain=given["retain"],
        recipe=settings,
        modality="audio",
        device="cpu",
    )
    seconds = time.process_time() - started
    difference = vkdsurgeon.diff(place / "base", patched, modality="audio")
    answers = {name: vkdsurgeon.evaluate(place / name, asked, device="cpu") for name in ("base", "gold", "patched")}
    return {
        "case": "voices",
        "language_identical": difference.language_identical,
        "verdict": asdict(run.verdict) if run.verdict else None,
        "accuracy": {
            name: {
                metric.id: {"value": metric.value, "n": metric.n}
                for metric in found.metrics
                if metric.id.endswith(("name.accuracy", "vowel.accuracy"))
            }
            for name, found in answers.items()
        },
        "cpu_seconds": round(seconds, 1),
    }


def real(place: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Unlearn voices in Whisper's encoder, in memory.

    Args:
        place: Where wheels, model and clips go.
        settings: Keys of the recipe that differ from twenty steps of small batches.
    """
    for name, speakers in (("forget", range(3)), ("retain", range(3, 11))):
        write_takes(place / "few", name, speakers, range(6))
    model = place / "whisper"
    if not model.exists():
        whisper.compose(place / "wheels", place / "whisper.partial").rename(model)
    recipe = Recipe(**{"steps": 20, "extensions": 0, "copies": 1, "forget_batch": 8, "retain_batch": 8, **settings})
    return {"case": "whisper", **towers.unlearn(model, place / "few", recipe, modality="audio")}


def main(words: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.audio", description=__doc__.partition("\n")[0])
    parser.add_argument("case", choices=("voices", "whisper"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Keys of the recipe.")
    parser.add_argument("--cases", type=Path, default=Path("cases"), metavar="DIR", help="It all goes to DIR/audio.")
    parser.add_argument("--out", type=Path, default=ROWS)
    arguments = parser.parse_args(words)
    row = {"voices": voices, "whisper": real}[arguments.case](arguments.cases / "audio", parse_settings(arguments.set))
    row |= {"settings": " ".join(sorted(arguments.set)), **provenance.provenance(torch.device("cpu"))}
    provenance.keep(arguments.out, [row], ("case", "settings"))
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
