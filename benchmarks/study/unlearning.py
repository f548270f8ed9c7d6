"""One recipe on one case: what `vkdsurgeon unlearn` does, and what that took."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vkdsurgeon
from benchmarks.study.cases import Place
from benchmarks.study.recipes import StudyRecipe
from vkdsurgeon.baselines.registry import BASELINES
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.data.miniature import unpack_generic
from vkdsurgeon.data.read import read_records
from vkdsurgeon.training.events import Step


@dataclass(frozen=True)
class Unlearned:
    """What one recipe did to one case.

    Attributes:
        root: The patched checkpoint.
        facts: For the row.
        stand_ins: Forgotten person -> the people that their nobody was mixed from; empty for methods without.
    """

    root: Path
    facts: dict[str, Any]
    stand_ins: Mapping[str, Sequence[str]] = field(default_factory=dict)


def unlearn(place: Place, recipe: StudyRecipe, seed: int, out: Path) -> Unlearned:
    """Unlearn on the CPU in float32.

    Args:
        place: The case.
        recipe: The recipe.
        seed: As `--seed`.
        out: Where the patched checkpoint goes.

    Returns:
        Of every method: its name, wall and processor seconds from the sets to the written checkpoint, steps, elements
        that could move, that were selected and that differ, and whether the language model's tensors are those of base.
        Feature mode tells of its stop rule besides, the decoder pass of its gate, output mode what it measures.
    """
    run = _feature_mode if recipe.feature_mode else _through_the_model
    started, worked = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        unlearned = run(place, recipe, seed, out, Path(scratch))
    common = {
        "method": recipe.method_name,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "language_tensors_identical": vkdsurgeon.diff(place.base, out, digests=False).language_identical,
    }
    return Unlearned(out, common | unlearned.facts, unlearned.stand_ins)


def _feature_mode(place: Place, recipe: StudyRecipe, seed: int, out: Path, scratch: Path) -> Unlearned:
    settings = recipe.settings
    kept: dict[str, Any] = {"retain" if recipe.keep == "retain" else "generic": _kept(place, recipe, scratch)}
    seen: list[Step] = []
    run = vkdsurgeon.unlearn(
        place.base,
        place.records / "forget.jsonl",
        out,
        **kept,
        text=None if settings.decoder is None else place.records / "text.jsonl",
        recipe=settings,
        seed=seed,
        device="cpu",
        journal=scratch / "journal",
        on_event=lambda event: seen.append(event.subject) if event.kind == "step" else None,
    )
    last = run.verdict
    assert last is not None
    assert run.write is not None
    decoder_seconds = sum(value for name, value in run.seconds.items() if name.startswith("decoder"))
    facts: dict[str, Any] = {
        "visual_seconds": round(sum(run.seconds.values()) - run.seconds["writing"] - decoder_seconds, 1),
        "steps": len(seen),
        "schedules": len(run.verdicts),
        "forget_ratio": round(last.forget_ratio, 4),
        # Of the images of a step; beside the ratio on held-out ones it tells what did not carry over.
        "trained_ratio": round(seen[-1].values["forget_loss"] / seen[0].values["forget_loss"], 4),
        "retain_drift": round(last.retain_drift, 4),
        "stop_rule_met": last.met,
        "own": last.own,
        "own_allowed": last.own_allowed,
        "base_own": last.base_own,
        "agree": last.agree,
        "looked_at": list(last.pictures),
        "reach": round(last.reach, 4),
        "stretch": round(last.stretch, 4),
        "targets": run.provenance["targets"],
        "step_size": run.provenance["step_size"],
        "elements": run.plan.tower_parameters + run.plan.projector_parameters,
        "selected_elements": run.selected_elements,
    }
    if run.decoder_verdict is not None:
        facts |= {
            "decoder_seconds": round(decoder_seconds, 1),
            "decoder_gate": {**vars(run.decoder_verdict), "met": run.decoder_verdict.met},
            "decoder_selected_elements": run.decoder_selected_elements,
        }
    return Unlearned(out, facts | {"changed_elements": run.write.elements_changed}, run.stand_ins)


def _through_the_model(place: Place, recipe: StudyRecipe, seed: int, out: Path, scratch: Path) -> Unlearned:
    """Another method, or output mode: both need the language model."""
    text = None
    method = recipe.method.value
    if method in BASELINES and BASELINES[method].reads_text:
        given, _ = divide_text(read_records(place.records / "text.jsonl", role="text"))
        text = write_text(given, scratch / "text.jsonl")
    kept: dict[str, Any] = {"retain" if recipe.keep == "retain" else "generic": _kept(place, recipe, scratch)}
    result = vkdsurgeon.run_method(
        method,
        place.base,
        place.records / "forget.jsonl",
        out,
        **kept,
        text=text,
        recipe=recipe.settings,
        seed=seed,
        device="cpu",
    )
    assert result.write is not None
    facts = {
        "steps": 0 if result.last is None else result.last.step,
        "elements": result.plan.elements,
        "selected_elements": result.selected_elements,
        "changed_elements": result.write.elements_changed,
        **{name: round(value, 4) for name, value in result.measured.items()},
    }
    return Unlearned(out, facts)


def _kept(place: Place, recipe: StudyRecipe, scratch: Path) -> Path:
    if recipe.keep == "built-in":
        return unpack_generic(scratch)
    return place.records / f"{recipe.keep}.jsonl"
