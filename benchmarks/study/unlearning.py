"""One recipe on one case: what `vkdsurgeon unlearn` does, and what that took."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.cases import Place
from benchmarks.study.recipes import StudyRecipe
from vkdsurgeon.baselines.registry import BASELINES
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.comparison.text_split import divide_text, write_text
from vkdsurgeon.data.miniature import unpack_generic
from vkdsurgeon.data.pictures import pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.decoder_pass.run import operate_decoder, prepare_decoder
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.pipeline.run_baseline import MethodRequest, run_method
from vkdsurgeon.training.events import Step, unheard
from vkdsurgeon.vision_pass.run import Job, operate, prepare


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
        "language_tensors_identical": diff_checkpoints(place.base, out).language_identical,
    }
    return Unlearned(out, common | unlearned.facts, unlearned.stand_ins)


def _feature_mode(place: Place, recipe: StudyRecipe, seed: int, out: Path, scratch: Path) -> Unlearned:
    """`vkdsurgeon.pipeline.run`, but who the stand-ins were is kept, which that never tells."""
    settings = recipe.settings
    forget = read_records(place.records / "forget.jsonl", role="forget")
    kept = read_records(_kept(place, recipe, scratch), role="retain")
    pictures = pictures_of(kept, role="retain")
    sets = (pictures, []) if recipe.keep == "retain" else ([], pictures)
    started = time.monotonic()
    prepared = prepare(Job(place.base, pictures_of(forget, role="forget"), *sets, settings, seed=seed))
    seen: list[Step] = []
    outcome = operate(prepared, lambda event: seen.append(event.subject) if event.kind == "step" else None)
    changes, last = dict(outcome.changes), outcome.verdict
    facts: dict[str, Any] = {
        "visual_seconds": round(time.monotonic() - started, 1),
        "steps": len(seen),
        "schedules": len(outcome.verdicts),
        "forget_ratio": round(last.forget_ratio, 4),
        # Of the pictures of a step; beside the ratio on held-out ones it tells what did not carry over.
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
        "targets": {layer: vars(reading) for layer, reading in outcome.readings.items()},
        "step_size": None if outcome.step_size is None else vars(outcome.step_size),
        "elements": prepared.plan.tower_parameters + prepared.plan.projector_parameters,
        "selected_elements": outcome.mask.count,
    }
    if settings.decoder is not None:
        started = time.monotonic()
        text = read_text_retain_set(place.records / "text.jsonl", seed)
        decoded = operate_decoder(prepare_decoder(prepared, forget, kept, text), unheard)
        changes |= decoded.changes
        facts |= {
            "decoder_seconds": round(time.monotonic() - started, 1),
            "decoder_gate": {**vars(decoded.verdict), "met": decoded.verdict.met},
            "decoder_selected_elements": decoded.mask.count,
        }
    written = write_patched(prepared.stack.inventory, changes, out)
    return Unlearned(out, facts | {"changed_elements": written.elements_changed}, outcome.stand_ins)


def _through_the_model(place: Place, recipe: StudyRecipe, seed: int, out: Path, scratch: Path) -> Unlearned:
    """Another method, or output mode: both need the language model."""
    text = None
    method = recipe.method.value
    if method in BASELINES and BASELINES[method].reads_text:
        given, _ = divide_text(read_records(place.records / "text.jsonl", role="text"))
        text = write_text(given, scratch / "text.jsonl")
    kept = _kept(place, recipe, scratch)
    request = MethodRequest(
        model=place.base,
        forget=place.records / "forget.jsonl",
        retain=kept if recipe.keep == "retain" else None,
        generic=None if recipe.keep == "retain" else kept,
        text=text,
        out=out,
        method=method,
        recipe=recipe.settings,
        seed=seed,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    result = run_method(request, unheard)
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
