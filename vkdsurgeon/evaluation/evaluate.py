"""One evaluation: every set asked of the model, its reference and gold, and what the answers amount to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.cache import AnswerCache
from vkdsurgeon.evaluation.divergence import divergence_ids, divergences
from vkdsurgeon.evaluation.forget_quality import forget_quality, quality_ids
from vkdsurgeon.evaluation.gates import check_gates, judge_metrics
from vkdsurgeon.evaluation.metrics import (
    compare_answers,
    comparison_ids,
    differences,
    finite,
    metric_ids,
    summarise,
)
from vkdsurgeon.evaluation.models import Measurement, Role, ask_each
from vkdsurgeon.evaluation.score import Answered, Scoring, answer_records
from vkdsurgeon.evaluation.sets import set_facts
from vkdsurgeon.evaluation.silence import without_silence
from vkdsurgeon.evaluation.warnings import warnings_for
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.results.evaluation import EvalResult, Example, Metric, Settings, SubjectResult
from vkdsurgeon.training.events import Event, Listener, unheard

Answers = dict[str, list[Answered]]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measurement):
    """The settings of an evaluation.

    Attributes:
        sets: Sets to ask, each under its own name.
        scoring: How answers are obtained.
        dtype: In what precision.
        limit: At most so many records per set.
        seed: Seed of sampling and bootstrap.
        include_examples: Put names, questions and answers into the result.
        cache: Directory of answers that were measured before; None for none.
        suite: What the sets come from, for the result.
        few_shot: Demonstrations before a question, for the result.
    """

    sets: Sequence[NamedSet]
    scoring: Scoring = field(default_factory=Scoring)
    dtype: str = "auto"
    limit: int | None = None
    seed: int = 0
    include_examples: bool = False
    cache: Path | None = None
    suite: str = "jsonl"
    few_shot: int = 0


def known_metrics(sets: Sequence[NamedSet], *, reference: bool, gold: bool) -> list[str]:
    """Every metric id that an evaluation of these sets will give."""
    own = [name for chosen in sets for name in metric_ids(chosen.name, chosen.records)]
    known = list(own)
    if reference:
        known += [f"{prefix}.{name}" for prefix in ("reference", "delta") for name in own]
        known += [name for chosen in sets for name in comparison_ids(chosen.name, chosen.records)]
    if reference and gold:
        known += [f"room.{name}" for name in own]
    if gold:
        known += [f"{prefix}.{name}" for prefix in ("gold", "gap") for name in own]
        known += [name for chosen in sets for name in quality_ids(chosen.name, chosen.records, forget=chosen.forget)]
        known += [name for chosen in sets for name in divergence_ids(chosen.name, chosen.records)]
    return known


def evaluate(evaluation: Evaluation, listener: Listener = unheard) -> EvalResult:
    """Measure the model and what it is compared with, then check the gates.

    Args:
        evaluation: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; nothing is written.

    Raises:
        UserError: Sets, gates or models are wrong; gates and sets are checked before a model is loaded.
    """
    started = time.perf_counter()
    chosen = _draw(evaluation)
    known = known_metrics(chosen, reference=evaluation.reference is not None, gold=evaluation.gold is not None)
    check_gates(evaluation.gates, known)
    store = _open_cache(evaluation, listener)

    def ask(role: Role, loaded: LoadedModel) -> Answers:
        cache = None if store is None else store.of(loaded, evaluation.model, evaluation.scoring)
        said = {
            named.name: answer_records(loaded, named.records, evaluation.scoring, listener, cache) for named in chosen
        }
        if cache is not None:
            listener(Event.note(cache.summary(role)))
        return without_silence(said)

    asked = ask_each(evaluation, ask, dtype=evaluation.dtype, listener=listener)
    answers = asked.found
    metrics = _metrics(chosen, answers, evaluation.seed)
    return EvalResult(
        models=asked.models,
        sets=[set_facts(named, whole, evaluation.salt) for named, whole in zip(chosen, evaluation.sets, strict=True)],
        settings=settings_of(evaluation, asked.first),
        metrics=metrics,
        subjects=_subjects(chosen, answers["model"], evaluation.include_examples),
        gates=judge_metrics(evaluation.gates, metrics),
        warnings=warnings_for(chosen, metrics),
        examples=_examples(answers) if evaluation.include_examples else [],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _open_cache(evaluation: Evaluation, listener: Listener) -> AnswerCache | None:
    if evaluation.cache is None:
        return None
    if evaluation.include_examples:
        raise UserError(
            "examples need the answers, and the cache does not store them",
            where="`include_examples`",
            expected="`include_examples` or `cache`, not both",
        )

    return AnswerCache(evaluation.cache, lambda text: listener(Event.warning(text)))


def settings_of(evaluation: Evaluation, loaded: LoadedModel) -> Settings:
    """The settings of an evaluation, for the result."""
    return Settings(
        device=loaded.places,
        batch_size=evaluation.scoring.batch_size,
        length_normalised=evaluation.scoring.length_normalised,
        max_new_tokens=evaluation.scoring.max_new_tokens,
        limit=evaluation.limit,
        seed=evaluation.seed,
        prompt_format=loaded.encoder.format,
        suite=evaluation.suite,
        few_shot=evaluation.few_shot,
    )


def _draw(evaluation: Evaluation) -> list[NamedSet]:
    names = [named.name for named in evaluation.sets]
    if not names:
        raise UserError("no set was given to measure on", expected="`forget`, `retain`, `text` or another set")
    if len(set(names)) != len(names):
        raise UserError("two sets have the same name", where="`sets`", value=names)
    return [
        replace(named, records=tuple(sample(named.records, evaluation.limit, evaluation.seed)))
        for named in evaluation.sets
    ]


def _metrics(sets: Sequence[NamedSet], answers: dict[Role, Answers], seed: int) -> list[Metric]:
    metrics: list[Metric] = []
    for named in sets:
        mine = answers["model"][named.name]
        metrics += summarise(named.name, mine, forget=named.forget, seed=seed)
        others: tuple[tuple[Role, str], ...] = (("reference", "delta"), ("gold", "gap"))
        for role, prefix in others:
            if role in answers:
                theirs = answers[role][named.name]
                metrics += summarise(f"{role}.{named.name}", theirs, forget=named.forget, seed=seed)
                metrics += differences(f"{prefix}.{named.name}", mine, theirs, forget=named.forget, seed=seed)
            if role == "gold" and role in answers:
                metrics += forget_quality(named.name, mine, theirs, forget=named.forget)
                metrics += divergences(named.name, mine, theirs, seed=seed)
        if "reference" in answers and "gold" in answers:
            known, unknown = (answers[role][named.name] for role in ("reference", "gold"))
            metrics += differences(f"room.{named.name}", known, unknown, forget=named.forget, seed=seed)
        if "reference" in answers:
            metrics += compare_answers(named.name, mine, answers["reference"][named.name])
    return metrics


def _subjects(sets: Sequence[NamedSet], answers: Answers, by_name: bool) -> list[SubjectResult]:
    labels: dict[str, str] = {}
    results = []
    for named in sets:
        members: dict[str, list[Answered]] = {}
        for answer in answers[named.name]:
            if answer.record.subject is not None:
                members.setdefault(answer.record.subject, []).append(answer)
        for subject, chosen in members.items():
            labels.setdefault(subject, subject if by_name else f"subject-{len(labels) + 1}")
            measured = summarise(named.name, chosen, forget=named.forget, seed=0)
            results.append(
                SubjectResult(
                    set=named.name,
                    subject=labels[subject],
                    n=len(chosen),
                    values={metric.id: metric.value for metric in measured if metric.id.count(".") == 2},
                )
            )
    return results


def _examples(answers: dict[Role, Answers]) -> list[Example]:
    return [
        Example(
            set=name,
            model=role,
            subject=answer.record.subject,
            task=answer.record.task,
            question=answer.record.question or "",
            answer=answer.record.answer or "",
            said=answer.said,
            values={metric: finite(value) for metric, value in answer.values.items()},
        )
        for role, sets in answers.items()
        for name, chosen in sets.items()
        for answer in chosen
    ]
