"""The restore attack: put the original tower or projector back into a patched model, and ask again.

It needs no data and no training, only the original checkpoint, which whoever publishes a patch often published before.
What it recovers was never removed from the language model; visual unlearning alone has no answer to it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vkdsurgeon.attacks.target import Target
from vkdsurgeon.checkpoint.placement import Placement, locate_visual
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import check_gates, judge_metrics
from vkdsurgeon.evaluation.metrics import differences, metric_ids, summarise
from vkdsurgeon.evaluation.models import Role, ask_each
from vkdsurgeon.evaluation.score import Answered, answer_records
from vkdsurgeon.evaluation.silence import without_silence
from vkdsurgeon.model.device_map import check_held
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.results.evaluation import Metric
from vkdsurgeon.results.relearn import RestoredPart, RestoreResult, RestoreSettings
from vkdsurgeon.training.events import Listener, unheard

# More than this over the model as it is given counts as having come back.
_CAME_BACK = 0.05


@dataclass(frozen=True, kw_only=True)
class Restoring(Target):
    """The settings of the restore attack.

    Attributes:
        reference: The original checkpoint; its visual weights are put back, and it is measured as the ceiling.
        part: What is put back: `visual` (tower and projector), `tower` or `projector`.
    """

    reference: Path
    part: RestoredPart = "visual"


def restore(attack: Restoring, listener: Listener = unheard) -> RestoreResult:
    """Measure a model as it is, with its visual side put back, and beside the original and gold.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written, the models on disk stay as they are.

    Raises:
        UserError: Sets, gates or models are wrong, or the two models' visual sides do not fit; sets and gates are
            checked before a model is loaded.
    """
    started = time.perf_counter()
    sets = attack.draw()
    check_gates(attack.gates, _known(attack, sets))

    def measure(loaded: LoadedModel) -> dict[str, list[Answered]]:
        said = {
            name: answer_records(loaded, records, attack.scoring, listener) for name, records in sets.items() if records
        }
        return without_silence(said)

    restored, differing = 0, 0

    def ask(role: Role, loaded: LoadedModel) -> list[dict[str, list[Answered]]]:
        nonlocal restored, differing
        # Reference and gold are measured as they are.
        if role == "model":
            placement = locate_visual(loaded.model, attack.tower, attack.projector)
            check_held(loaded.model, _parameters_of(placement, attack), "this attack")
        found = [measure(loaded)]
        if role == "model":
            restored, differing = put_back(loaded, attack)
            found.append(measure(loaded))
        return found

    asked = ask_each(attack, ask, dtype=attack.dtype, listener=listener)
    before, after = asked.found["model"]
    others: dict[Role, dict[str, list[Answered]]] = {
        role: found[0] for role, found in asked.found.items() if role != "model"
    }
    metrics = _metrics(before, after, others, attack.seed)
    return RestoreResult(
        models=asked.models,
        sets=attack.facts(sets),
        settings=RestoreSettings(
            part=attack.part,
            restored_elements=restored,
            differing_elements=differing,
            device=asked.first.places,
            seed=attack.seed,
            limit=attack.limit,
        ),
        metrics=metrics,
        gates=judge_metrics(attack.gates, metrics),
        warnings=_warnings(attack, metrics, differing),
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def put_back(loaded: LoadedModel, attack: Restoring) -> tuple[int, int]:
    """Overwrite a loaded model's tower or projector with the original's, in memory.

    Args:
        loaded: The unlearned model; changed in place.
        attack: Says what and from where.

    Returns:
        Number of elements put back, and how many of them had differed.

    Raises:
        UserError: The part does not exist apart, or the two models' visual sides have other names or shapes.
    """
    placement = locate_visual(loaded.model, attack.tower, attack.projector)
    wanted = _parameters_of(placement, attack)
    original = load_visual_stack(
        attack.reference, device="cpu", tower=attack.tower, projector=attack.projector
    ).visual_parameters()
    parameters = dict(loaded.model.named_parameters())
    for name in wanted:
        if name not in original or original[name].shape != parameters[name].shape:
            raise UserError(
                "the original's visual side does not fit into this model",
                where=attack.reference,
                value=name,
                expected=f"the checkpoint that {attack.model} was made from",
            )
    differing = 0
    with torch.no_grad():
        for name in wanted:
            value = original[name].detach().to(parameters[name])
            differing += int((value != parameters[name]).sum())
            parameters[name].copy_(value)
    return sum(parameters[name].numel() for name in wanted), differing


def _parameters_of(placement: Placement, attack: Restoring) -> tuple[str, ...]:
    if attack.part == "visual":
        return placement.visual_parameters
    found = placement.tower_parameters if attack.part == "tower" else placement.projector_parameters
    if not found:
        raise UserError(
            "this model has no projector apart from its tower",
            where="`part`",
            value=attack.part,
            expected="visual or tower",
            remedy="its merger lies inside the tower; put all of it back with `part=visual`",
        )
    return found


def _known(attack: Restoring, sets: dict[str, list[Record]]) -> list[str]:
    after = [name for part, records in sets.items() for name in metric_ids(f"restore.{part}after", records)]
    known = [name.replace("after.", f"{stage}.", 1) for stage in ("before", "after", "gain") for name in after]
    known += [f"reference.{name}" for name in after]
    return known + ([f"gold.{name}" for name in after] if attack.gold else [])


def _metrics(
    before: dict[str, list[Answered]],
    after: dict[str, list[Answered]],
    others: dict[Role, dict[str, list[Answered]]],
    seed: int,
) -> list[Metric]:
    metrics: list[Metric] = []
    for part in before:
        forget = part == ""
        metrics += summarise(f"restore.{part}before", before[part], forget=forget, seed=seed)
        metrics += summarise(f"restore.{part}after", after[part], forget=forget, seed=seed)
        metrics += differences(f"restore.{part}gain", after[part], before[part], forget=forget)
        for role, answers in others.items():
            metrics += summarise(f"{role}.restore.{part}after", answers[part], forget=forget, seed=seed)
    return metrics


def _warnings(attack: Restoring, metrics: Sequence[Metric], differing: int) -> list[str]:
    found = []
    if differing == 0:
        found.append(f"nothing was put back: the {attack.part} of both models is the same, so this attack says nothing")
    if attack.gold is None:
        found.append("no gold model was measured (`gold`), so it is not told what anybody would guess")
    values = {metric.id: metric.value for metric in metrics}
    for metric in metrics:
        parts = metric.id.split(".")
        if metric.id.startswith("restore.gain.") and metric.direction == "lower" and len(parts) == 4:
            kind = metric.id.removeprefix("restore.gain.")
            if metric.value is not None and metric.value > _CAME_BACK:
                found.append(
                    f"{kind} is {values[f'restore.after.{kind}']:.3f} with the original {attack.part} in place, after "
                    f"{values[f'restore.before.{kind}']:.3f}: what was to be forgotten is still in the language "
                    "model, and whoever has the original checkpoint has it back for free (see --decoder-pass)"
                )
    return found
