"""Metrics of relearning attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from vkdsurgeon.attacks.bootstrap import (
    Scores,
    chance_of,
    gain_metric,
    hierarchical_interval,
    mean_score,
    over_seeds,
    recovery,
    recovery_metric,
    scores_of,
)
from vkdsurgeon.attacks.relearn_data import Utility
from vkdsurgeon.attacks.split import Split
from vkdsurgeon.config.relearn import RelearnPlan
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.metrics import differences, finite, metric_ids, summarise
from vkdsurgeon.evaluation.score import Answered
from vkdsurgeon.results.evaluation import Metric
from vkdsurgeon.results.relearn import CurvePoint, Recovery, SeedOutcome

AG, STEPS = "relearn.ag", "relearn.steps_to_recover"
GOLD, GAP = "gold.", "gap."
_Pair: TypeAlias = tuple[Sequence[Answered], Sequence[Answered]]


@dataclass
class AttackRun:
    """One attack on one model with one seed.

    Attributes:
        seed: The seed.
        split: What was shown and measured.
        before: Answers to the measured questions before the attack.
        utility_before: Answers to the questions on utility before it.
        utility_after: The same after it.
        trained: Number of trained parameters.
        losses: Measured step -> training loss; None at step 0.
        trained_on: The training loss of every step.
        scores: Measured step -> what the measured questions gave.
        after: Answers after the last measured step.
        diverged_at: The step at which the attacker's loss was no number; None where there was none.
    """

    seed: int
    split: Split
    before: Sequence[Answered]
    utility_before: Sequence[Answered]
    utility_after: Sequence[Answered] = ()
    trained: int = 0
    losses: dict[int, float | None] = field(default_factory=dict)
    trained_on: list[float] = field(default_factory=list)
    scores: dict[int, Scores] = field(default_factory=dict)
    after: Sequence[Answered] = ()
    diverged_at: int | None = None

    def measured(self, step: int, loss: float | None, answers: Sequence[Answered]) -> None:
        """Note the answers after a step."""
        self.losses[step], self.scores[step], self.after = loss, scores_of(answers), answers

    def diverge(self, measured_steps: Sequence[int]) -> None:
        """Give up after the last step that was taken: what was not measured by then is not a number."""
        self.diverged_at = len(self.trained_on) + 1
        nothing = [_unmeasured(answer) for answer in self.before]
        for step in measured_steps:
            if step >= self.diverged_at:
                self.measured(step, None, nothing)
        self.utility_after = [_unmeasured(answer) for answer in self.utility_before]

    @property
    def gain(self) -> Scores:
        """After minus before, question by question."""
        return scores_of(self.after).minus(scores_of(self.before))


@dataclass(frozen=True)
class RelearnMetrics:
    """One attack over its seeds; ids are those of a document with one attack.

    Attributes:
        metrics: Everything measured.
        ag_over: The metrics that AG is the mean over.
        curve: Means over the seeds.
        recovery: Recovery of the model and of gold.
        seeds: AG per seed.
        room: Reference minus gold on the measured questions: value and interval, as shares; None without both.
        floor: What guessing reaches on the measured questions.
        learned: The attacker's own loss at the first and the last step, means over the seeds, in nats per token.
        diverged: Per role the steps at which a seed's attack diverged; empty where none did.
    """

    metrics: list[Metric]
    ag_over: list[str]
    curve: list[CurvePoint]
    recovery: list[Recovery]
    seeds: list[SeedOutcome]
    room: tuple[float | None, float | None, float | None] | None
    floor: float
    learned: tuple[float, float]
    diverged: dict[str, list[int]]


def find(
    plan: RelearnPlan,
    mine: Sequence[AttackRun],
    gold: Sequence[AttackRun] | None,
    reference: Sequence[Sequence[Answered]] | None,
    utility: Utility,
) -> RelearnMetrics:
    """Turn the answers of one attack into metrics.

    Args:
        plan: The settings.
        mine: The attack on the model, once per seed.
        gold: The same attack on gold.
        reference: Per seed the reference's answers to the measured questions.
        utility: What utility was measured on.
    """
    seed = plan.seeds[0]
    chances = [chance_of(attack_run.before) for attack_run in mine]
    full = [mean_score(scores_of(answers)) for answers in reference] if reference else None
    metrics: list[Metric] = []
    curve: list[CurvePoint] = []
    found: list[Recovery] = []
    for prefix, role, attack_runs in (("", "model", mine), (GOLD, "gold", gold)):
        if attack_runs is None:
            continue
        metrics += _metrics(prefix, attack_runs, utility, seed)
        curve += _curve(role, attack_runs)
        scores = [{step: mean_score(each) for step, each in attack_run.scores.items()} for attack_run in attack_runs]
        back = recovery(role, scores, chances, full, plan.recover, plan.steps)
        if back is not None:
            found.append(back)
            metrics.append(recovery_metric(f"{prefix}{STEPS}", back))
    if gold is not None:
        gaps = [a.gain.minus(b.gain) for a, b in zip(mine, gold, strict=True)]
        metrics.append(gain_metric(f"{GAP}{AG}", gaps, seed))
    if reference is not None:
        start = f"reference.{_stage('before')}"
        metrics += over_seeds(
            lambda answers, _: summarise(start, answers, forget=True, seed=seed),
            [(answers, ()) for answers in reference],
            start,
            seed,
        )
    others: Sequence[AttackRun | None] = gold or [None] * len(mine)
    return RelearnMetrics(
        metrics=metrics,
        ag_over=list(dict.fromkeys(name for attack_run in mine for name in attack_run.gain.names)),
        curve=curve,
        recovery=found,
        seeds=[
            SeedOutcome(
                seed=attack_run.seed,
                ag=_points(attack_run),
                gold_ag=None if other is None else _points(other),
                shown_records=len(attack_run.split.shown),
                measured_records=len(attack_run.split.measured),
                diverged=attack_run.diverged_at is not None,
                gold_diverged=other is not None and other.diverged_at is not None,
            )
            for attack_run, other in zip(mine, others, strict=True)
        ],
        room=_room(reference, gold, seed),
        floor=float(np.mean(chances)),
        learned=_learned(mine),
        diverged={
            role: steps
            for role, attack_runs in (("model", mine), ("gold", gold or ()))
            if (steps := [step for attack_run in attack_runs if (step := attack_run.diverged_at) is not None])
        },
    )


def known_ids(measured: Sequence[Sequence[Record]], utility: Utility, *, gold: bool, reference: bool) -> list[str]:
    """Ids that `find` will give, known before anything is asked.

    Args:
        measured: What is measured with each seed.
        utility: What utility is measured on.
        gold: Whether gold is attacked alike.
        reference: Whether the reference is measured.
    """
    asked = [record for records in measured for record in records]
    known = [AG, STEPS, *(name for stage in ("before", "after", "gain") for name in metric_ids(_stage(stage), asked))]
    if utility.part:
        for stage in ("before", "after"):
            known += metric_ids(_stage(f"{utility.part}.{stage}"), utility.records)
    if gold:
        known += [*(f"{GOLD}{name}" for name in known), f"{GAP}{AG}"]
    if reference:
        known += metric_ids(f"reference.{_stage('before')}", asked)
    return known


def _stage(name: str) -> str:
    return f"relearn.{name}"


def _metrics(prefix: str, attack_runs: Sequence[AttackRun], utility: Utility, seed: int) -> list[Metric]:
    def group(stage: str, pairs: Sequence[_Pair], *, forget: bool) -> list[Metric]:
        start = f"{prefix}{_stage(stage)}"
        make: Callable[[Sequence[Answered], Sequence[Answered]], list[Metric]]
        if stage == "gain":
            make = lambda mine, other: differences(start, mine, other, forget=forget)  # noqa: E731
        else:
            make = lambda mine, _: summarise(start, mine, forget=forget, seed=seed)  # noqa: E731
        return over_seeds(make, pairs, start, seed)

    metrics = [gain_metric(f"{prefix}{AG}", [attack_run.gain for attack_run in attack_runs], seed)]
    metrics += group("before", [(attack_run.before, ()) for attack_run in attack_runs], forget=True)
    metrics += group("after", [(attack_run.after, ()) for attack_run in attack_runs], forget=True)
    metrics += group("gain", [(attack_run.after, attack_run.before) for attack_run in attack_runs], forget=True)
    if utility.part:
        part = utility.part
        # Before the attack every seed finds the same model.
        metrics += group(f"{part}.before", [(attack_runs[0].utility_before, ())], forget=False)
        metrics += group(f"{part}.after", [(attack_run.utility_after, ()) for attack_run in attack_runs], forget=False)
    return metrics


def _curve(role: str, attack_runs: Sequence[AttackRun]) -> list[CurvePoint]:
    points = []
    for step in attack_runs[0].scores:
        values: dict[str, list[float]] = {}
        for attack_run in attack_runs:
            for name, value in zip(attack_run.scores[step].names, attack_run.scores[step].means, strict=True):
                values.setdefault(name, []).append(float(value))
        losses = [loss for attack_run in attack_runs if (loss := attack_run.losses[step]) is not None]
        points.append(
            CurvePoint(
                model=role,
                step=step,
                loss=float(np.mean(losses)) if losses else None,
                values={name: finite(float(np.mean(found))) for name, found in values.items()},
            )
        )
    return points


def _learned(attack_runs: Sequence[AttackRun]) -> tuple[float, float]:
    if any(attack_run.diverged_at is not None for attack_run in attack_runs):
        return math.nan, math.nan
    first, last = zip(
        *((attack_run.trained_on[0], attack_run.trained_on[-1]) for attack_run in attack_runs), strict=True
    )
    return float(np.mean(first)), float(np.mean(last))


def _unmeasured(answer: Answered) -> Answered:
    return replace(answer, values=dict.fromkeys(answer.values, math.nan), said="", log_likelihoods=())


def _points(attack_run: AttackRun) -> float | None:
    return finite(100.0 * mean_score(attack_run.gain))


def _room(
    reference: Sequence[Sequence[Answered]] | None, gold: Sequence[AttackRun] | None, seed: int
) -> tuple[float | None, float | None, float | None] | None:
    if reference is None or gold is None:
        return None
    gaps = [scores_of(a).minus(scores_of(b.before)) for a, b in zip(reference, gold, strict=True)]
    return finite(float(np.mean([mean_score(gap) for gap in gaps]))), *hierarchical_interval(gaps, seed)
