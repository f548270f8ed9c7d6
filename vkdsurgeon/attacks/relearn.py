"""The relearning attack: fine-tune on a part of what was forgotten, measure what comes back of the rest."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vkdsurgeon.attacks.schema import CurvePoint, RelearnResult, RelearnSettings
from vkdsurgeon.attacks.split import Protocol, Split, split_records
from vkdsurgeon.attacks.trainer import Scope, fine_tune, trainable
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.gates import Gate, check_gates, judge
from vkdsurgeon.evaluation.metrics import differences, metric_ids, summarise
from vkdsurgeon.evaluation.model import LoadedModel, load_model
from vkdsurgeon.evaluation.schema import Metric, SetFacts
from vkdsurgeon.evaluation.score import Answered, Listener, Scoring, answer_records
from vkdsurgeon.evaluation.sets import NamedSet, sample, set_facts
from vkdsurgeon.evaluation.suite import Role, match_encoder, model_facts

AG = "relearn.ag"
# More than this share of utility lost to the attack itself is told.
_UTILITY_LOSS = 0.05


@dataclass(frozen=True)
class Relearning:
    """One attack.

    Attributes:
        model: Directory of the unlearned model; never written to.
        forget: What was to be forgotten.
        heldout: Other views of the same subjects to measure on.
        retain: What utility is measured on.
        reference: The model before unlearning; measured only, as the ceiling.
        gold: A model that never knew; attacked in the same way.
        protocol: See `split_records`.
        fraction: See `split_records`.
        scope: What the attacker may train.
        steps: Optimiser steps.
        lr: Peak learning rate.
        batch_size: Records per step.
        seed: Of split and order.
        limit: At most so many retain questions, drawn per task.
        gates: Bounds; they do not stop anything here.
        scoring: How answers are obtained.
        device: Where.
        dtype: Precision; weights move by less than bfloat16 can hold, so float32 unless memory forbids.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, likewise.
        salt: For the digests of the sets.
    """

    model: Path
    forget: NamedSet
    heldout: NamedSet | None = None
    retain: NamedSet | None = None
    reference: Path | None = None
    gold: Path | None = None
    protocol: Protocol = "people"
    fraction: float = 0.5
    scope: Scope = "visual"
    steps: int = 15
    lr: float = 3e-4
    batch_size: int = 32
    seed: int = 0
    limit: int | None = 500
    gates: Sequence[Gate] = ()
    scoring: Scoring = field(default_factory=Scoring)
    device: str = "auto"
    dtype: str = "float32"
    tower: str | None = None
    projector: Sequence[str] | None = None
    salt: bytes = b""


@dataclass
class _Attacked:
    """One model's answers over the attack."""

    before: list[Answered]
    after: list[Answered]
    utility_before: list[Answered]
    utility_after: list[Answered]
    curve: list[CurvePoint]
    trained: int


def relearn(attack: Relearning, listener: Listener | None = None) -> RelearnResult:
    """Attack a model, and gold alike, and report what came back beside what it cost.

    Args:
        attack: What.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written, the models on disk stay as they are.

    Raises:
        UserError: Sets, gates or models are wrong; sets and gates are checked before a model is loaded.
        SurgeryError: The attack's training diverged.
    """
    started = time.perf_counter()
    heldout = attack.heldout.records if attack.heldout else None
    split = split_records(
        attack.forget.records, heldout, protocol=attack.protocol, fraction=attack.fraction, seed=attack.seed
    )
    utility = tuple(sample(attack.retain.records, attack.limit, attack.seed)) if attack.retain else ()
    check_gates(attack.gates, _known(attack, split, utility))

    first = load_model(attack.model, device=attack.device, dtype=attack.dtype)
    facts = [model_facts("model", first)]
    device = str(first.device)
    mine = _attack(attack, first, "model", split, utility, listener)
    first.model = None
    metrics, over = _metrics("", mine, attack.seed)
    curve = mine.curve
    others: list[tuple[Role, Path | None]] = [("gold", attack.gold), ("reference", attack.reference)]
    for role, root in others:
        if root is None:
            continue
        gc.collect()
        loaded = load_model(root, device=attack.device, dtype=attack.dtype)
        match_encoder(loaded, first)
        facts.append(model_facts(role, loaded))
        if role == "gold":
            theirs = _attack(attack, loaded, role, split, utility, listener)
            more, _ = _metrics("gold.", theirs, attack.seed)
            metrics += [*more, _gap(metrics, more)]
            curve = curve + theirs.curve
        else:
            answers = answer_records(loaded, split.measured, attack.scoring, listener)
            metrics += summarise("reference.relearn.before", answers, forget=True, seed=attack.seed)
        del loaded
    return RelearnResult(
        models=facts,
        sets=_set_facts(attack, split, utility),
        settings=_settings(attack, split, device, mine.trained),
        ag_over=over,
        metrics=metrics,
        curve=curve,
        gates=judge(attack.gates, {metric.id: metric.value for metric in metrics}),
        warnings=_warnings(attack, metrics),
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _attack(
    attack: Relearning,
    loaded: LoadedModel,
    role: Role,
    split: Split,
    utility: Sequence[Record],
    listener: Listener | None,
) -> _Attacked:
    def measure(records: Sequence[Record]) -> list[Answered]:
        return answer_records(loaded, records, attack.scoring, listener) if records else []

    def point(step: int, loss: float | None, answers: list[Answered]) -> CurvePoint:
        found = _undivided(summarise("relearn", answers, forget=True, seed=attack.seed), "relearn")
        values = {metric.id.removeprefix("relearn."): metric.value for metric in found}
        return CurvePoint(model=role, step=step, loss=loss, values=values)

    before, utility_before = measure(split.measured), measure(utility)
    curve = [point(0, None, before)]
    parameters = trainable(loaded, attack.scope, attack.tower, attack.projector)
    trained = sum(parameter.numel() for parameter in parameters)
    losses = fine_tune(
        loaded,
        parameters,
        split.shown,
        steps=attack.steps,
        lr=attack.lr,
        batch_size=attack.batch_size,
        seed=attack.seed,
    )
    for step, loss in enumerate(losses, start=1):
        if listener:
            listener(
                {"event": "attack", "model": role, "step": step, "loss": loss, "text": f"{role}: attack step {step}"}
            )
        if step == attack.steps // 2 and step < attack.steps:
            curve.append(point(step, loss, measure(split.measured)))
    after = measure(split.measured)
    curve.append(point(attack.steps, loss, after))
    return _Attacked(before, after, utility_before, measure(utility), curve, trained)


def _metrics(prefix: str, attacked: _Attacked, seed: int) -> tuple[list[Metric], list[str]]:
    gains = differences(f"{prefix}relearn.gain", attacked.after, attacked.before, forget=True)
    top = _undivided(gains, f"{prefix}relearn.gain")
    values = [metric.value for metric in top if metric.value is not None]
    ag = Metric(
        id=f"{prefix}{AG}",
        value=100.0 * sum(values) / len(values) if len(values) == len(top) else None,
        n=len(attacked.after),
        direction="lower",
    )
    metrics = [ag]
    metrics += summarise(f"{prefix}relearn.before", attacked.before, forget=True, seed=seed)
    metrics += summarise(f"{prefix}relearn.after", attacked.after, forget=True, seed=seed)
    metrics += gains
    if attacked.utility_before:
        metrics += summarise(f"{prefix}relearn.retain.before", attacked.utility_before, forget=False, seed=seed)
        metrics += summarise(f"{prefix}relearn.retain.after", attacked.utility_after, forget=False, seed=seed)
    return metrics, [metric.id.removeprefix(f"{prefix}relearn.gain.") for metric in top]


def _gap(mine: Sequence[Metric], theirs: Sequence[Metric]) -> Metric:
    """AG minus gold's AG: what comes back beyond what anybody would learn from the attacker's data."""
    values = [metric.value for metric in (mine[0], theirs[0])]
    known = [value for value in values if value is not None]
    return Metric(
        id=f"gap.{AG}", value=known[0] - known[1] if len(known) == 2 else None, n=mine[0].n, direction="lower"
    )


def _undivided(metrics: Sequence[Metric], prefix: str) -> list[Metric]:
    """The metrics of undivided tasks: `vqa.accuracy`, not `vqa.name.accuracy`."""
    return [metric for metric in metrics if metric.id.removeprefix(f"{prefix}.").count(".") == 1]


def _known(attack: Relearning, split: Split, utility: Sequence[Record]) -> list[str]:
    stages = [f"relearn.{stage}" for stage in ("before", "after", "gain")]
    known = [AG, *(name for stage in stages for name in metric_ids(stage, split.measured))]
    known += [name for stage in ("before", "after") for name in metric_ids(f"relearn.retain.{stage}", utility)]
    if attack.gold:
        known += [*(f"gold.{name}" for name in known), f"gap.{AG}"]
    if attack.reference:
        known += metric_ids("reference.relearn.before", split.measured)
    return known


def _settings(attack: Relearning, split: Split, device: str, trained: int) -> RelearnSettings:
    return RelearnSettings(
        protocol=attack.protocol,
        scope=attack.scope,
        fraction=attack.fraction,
        steps=attack.steps,
        lr=attack.lr,
        batch_size=attack.batch_size,
        seed=attack.seed,
        limit=attack.limit,
        device=device,
        trained_parameters=trained,
        shown_records=len(split.shown),
        shown_subjects=len({record.subject for record in split.shown}),
        measured_records=len(split.measured),
        measured_subjects=len({record.subject for record in split.measured}),
        measured_on="heldout" if attack.heldout else "forget",
    )


def _set_facts(attack: Relearning, split: Split, utility: Sequence[Record]) -> list[SetFacts]:
    """What was really used of each set: shown to the attacker, measured, or asked for utility."""
    forget = split.shown if attack.heldout else (*split.shown, *split.measured)
    used = ((attack.forget, forget), (attack.heldout, split.measured), (attack.retain, utility))
    return [
        set_facts(NamedSet(whole.name, tuple(records)), whole, attack.salt)
        for whole, records in used
        if whole is not None
    ]


def _warnings(attack: Relearning, metrics: Sequence[Metric]) -> list[str]:
    found = []
    if attack.retain is None:
        found.append("utility was not measured (--retain): a destroyed model looks robust against any attack")
    if attack.gold is None:
        found.append("no gold model was attacked (--gold), so AG includes what anybody would learn from the same data")
    if attack.heldout is None:
        found.append("measured on the forget set's own pictures; give --heldout for other views")
    values = {metric.id: metric for metric in metrics}
    after = [metric for metric in metrics if metric.id.startswith("relearn.retain.after.")]
    for metric in _undivided(after, "relearn.retain.after"):
        before = values[metric.id.replace(".after.", ".before.", 1)]
        if before.chance is not None and before.low is not None and before.low <= before.chance:
            found.append(f"{before.id} is not above chance: the model is of no use, so its AG says nothing")
        elif before.value is not None and metric.value is not None and metric.value < before.value - _UTILITY_LOSS:
            found.append(
                f"the attack itself cost utility ({metric.id.removeprefix('relearn.retain.after.')} from "
                f"{before.value:.3f} to {metric.value:.3f}); a gentler one may bring back more"
            )
    return found
