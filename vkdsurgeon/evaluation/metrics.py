"""From answers to numbers with confidence intervals, per task and every prefix of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record, groups_of, to_forget
from vkdsurgeon.evaluation.bootstrap import clusters_of, paired_bootstrap
from vkdsurgeon.evaluation.score import Answered
from vkdsurgeon.evaluation.text import TEXT_METRICS
from vkdsurgeon.results.evaluation import Direction, Metric

_Z = 1.959963984540054
_RESAMPLES = 1000
_BINARY = frozenset({"accuracy", "likelihood", "cloze", "exact", "contains"})
_OF_OPTIONS = frozenset({"accuracy", "likelihood"})


def metric_names(record: Record) -> tuple[str, ...]:
    """The metrics that a record is measured by."""
    if isinstance(record, ProtocolRecord):
        return record.metric_names
    return ("accuracy",) if record.options else TEXT_METRICS


def metric_ids(set_name: str, records: Sequence[Record]) -> list[str]:
    """Ids that `summarise` will give for these records, known before anything is asked."""
    found = {
        f"{set_name}.{group}.{name}": None
        for record in records
        for group in groups_of(record.task)
        for name in metric_names(record)
    }
    return list(found)


def comparison_ids(set_name: str, records: Sequence[Record]) -> list[str]:
    """Ids that `compare_answers` will give for these records."""
    groups = {group: None for record in records for group in groups_of(record.task)}
    textual = {group for record in records if record.media is None for group in groups_of(record.task)}
    return [
        f"{set_name}.{group}.{name}"
        for group in groups
        for name in ("agreement", "identical")
        if name == "agreement" or group in textual
    ]


def summarise(set_name: str, answers: Sequence[Answered], *, forget: bool, seed: int) -> list[Metric]:
    """Average per group and metric.

    Args:
        set_name: First part of the ids.
        answers: Answers of one model to one set.
        forget: Whether the set holds what is to be forgotten, so that less is better.
        seed: Seed of the bootstrap.

    Returns:
        Shares of right answers with Wilson intervals and other means with bootstrap intervals, in the order of
        `metric_ids`.
    """
    metrics = []
    for group, name, chosen in _grouped(answers):
        values = np.array([answer.values[name] for answer in chosen])
        low, high = wilson(values) if name in _BINARY else bootstrap(values, seed)
        guesses = [1.0 / len(answer.record.options) for answer in chosen if answer.record.options]
        metrics.append(
            Metric(
                id=f"{set_name}.{group}.{name}",
                value=finite(values.mean()),
                n=len(chosen),
                direction=direction(chosen, forget),
                low=low,
                high=high,
                interval="wilson" if name in _BINARY else "bootstrap",
                chance=float(np.mean(guesses)) if name in _OF_OPTIONS else None,
            )
        )
    return metrics


def differences(
    set_name: str, answers: Sequence[Answered], others: Sequence[Answered], *, forget: bool, seed: int = 0
) -> list[Metric]:
    """Model minus another model on the same records, with paired intervals over subjects or images.

    Args:
        set_name: First parts of the ids, such as `delta.forget`.
        answers: Answers of the model.
        others: Answers of the other model to the same records, in the same order.
        forget: Whether less is better.
        seed: Seed of the bootstrap.
    """
    metrics = []
    for (group, name, mine), (_, _, theirs) in zip(_grouped(answers), _grouped(others), strict=True):
        gaps = np.array([a.values[name] - b.values[name] for a, b in zip(mine, theirs, strict=True)])
        clusters = clusters_of([answer.record for answer in mine])
        low, high = paired_bootstrap(gaps, clusters, seed)
        metrics.append(
            Metric(
                id=f"{set_name}.{group}.{name}",
                value=finite(float(gaps.mean())),
                n=len(gaps),
                direction=direction(mine, forget),
                low=low,
                high=high,
                interval="paired bootstrap",
                unit=clusters.unit,
                clusters=clusters.count,
            )
        )
    return metrics


def compare_answers(set_name: str, answers: Sequence[Answered], others: Sequence[Answered]) -> list[Metric]:
    """How often two models say the same.

    Returns:
        Per group `agreement`, the share of equal answers, and for questions without an image `identical`, the share of
        bit-identical log-likelihoods (or equal generated texts).
    """
    pairs = list(zip(answers, others, strict=True))
    groups: dict[str, list[tuple[Answered, Answered]]] = {}
    for pair in pairs:
        for group in groups_of(pair[0].record.task):
            groups.setdefault(group, []).append(pair)
    metrics = []
    for group, members in groups.items():
        textual = [pair for pair in members if pair[0].record.media is None]
        measured = [("agreement", [float(a.said == b.said) for a, b in members])]
        if textual:
            same = [float(a.said == b.said and a.log_likelihoods == b.log_likelihoods) for a, b in textual]
            measured.append(("identical", same))
        for name, values in measured:
            low, high = wilson(np.array(values))
            metrics.append(
                Metric(
                    id=f"{set_name}.{group}.{name}",
                    value=float(np.mean(values)),
                    n=len(values),
                    direction="higher" if len(textual) == len(members) else "none",
                    low=low,
                    high=high,
                    interval="wilson",
                )
            )
    return metrics


def direction(chosen: Sequence[Answered], forget: bool) -> Direction:
    """Which way is better for a group of a set."""
    return "lower" if forget and any(to_forget(answer.record) for answer in chosen) else "higher"


def wilson(values: np.ndarray) -> tuple[float | None, float | None]:
    """95 % Wilson score interval of a proportion.

    Args:
        values: Zeros and ones, at least one.
    """
    n, share = len(values), float(values.mean())
    if not math.isfinite(share):
        return None, None
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap interval of a mean.

    Args:
        values: float [n], at least one.
        seed: Seed of the resampling.
    """
    if not np.isfinite(values).all():
        return None, None
    generator = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    block = max(1, 1_000_000 // len(values))
    for start in range(0, _RESAMPLES, block):
        rows = min(block, _RESAMPLES - start)
        means[start : start + rows] = values[generator.integers(0, len(values), (rows, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def finite(value: float) -> float | None:
    """None for what is not a number, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def _grouped(answers: Sequence[Answered]) -> Iterator[tuple[str, str, list[Answered]]]:
    groups: dict[tuple[str, str], list[Answered]] = {}
    for answer in answers:
        for group in groups_of(answer.record.task):
            for name in answer.values:
                groups.setdefault((group, name), []).append(answer)
    for (group, name), chosen in groups.items():
        yield group, name, chosen
