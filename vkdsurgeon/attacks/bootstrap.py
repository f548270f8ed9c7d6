"""Gains of a relearning attack over questions and seeds: means, intervals, and steps to recover."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.evaluation.bootstrap import Clusters, clusters_of
from vkdsurgeon.evaluation.metrics import finite
from vkdsurgeon.evaluation.score import Answered
from vkdsurgeon.results.evaluation import Metric
from vkdsurgeon.results.relearn import Recovery

_RESAMPLES = 1000
_BLOCK = 4_000_000
# A level of 0.6 is reached by a score of 0.6, whatever sums gave either.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Scores:
    """Values of the undivided metrics (`vqa.accuracy`, not `vqa.name.accuracy`) of one seed's questions.

    Attributes:
        names: The metrics, M of them.
        values: float64 [R, M]; 0 where a question is not measured by a metric.
        member: bool [R, M]; whether it is.
        clusters: Which questions hang together.
    """

    names: tuple[str, ...]
    values: np.ndarray
    member: np.ndarray
    clusters: Clusters

    @property
    def means(self) -> np.ndarray:
        """float64 [M], NaN where an answer could not be measured."""
        means: np.ndarray = self.values.sum(axis=0) / self.member.sum(axis=0)
        return means

    def minus(self, other: Scores) -> Scores:
        """The difference, question by question."""
        return Scores(self.names, self.values - other.values, self.member, self.clusters)


def scores_of(answers: Sequence[Answered]) -> Scores:
    """Arrange the answers to one seed's questions."""
    rows = [
        {f"{answer.record.task.split('.')[0]}.{name}": value for name, value in answer.values.items()}
        for answer in answers
    ]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    values = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    member = np.array([[name in row for name in names] for row in rows])
    return Scores(names, values, member, clusters_of([answer.record for answer in answers]))


def mean_score(scores: Scores) -> float:
    """The mean over the metrics of their means, NaN where one could not be measured."""
    return float(scores.means.mean())


def hierarchical_interval(seeds: Sequence[Scores], seed: int) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap interval of the mean over seeds of `mean_score`.

    Seeds are drawn with replacement, and within each draw of a seed its clusters of questions (Efron & Tibshirani 1993,
    ch. 8; `clusters_of`); with one seed only the clusters are. All metrics of a question go together, so differences
    stay paired.

    Args:
        seeds: One `Scores` per seed.
        seed: Seed of the resampling.
    """
    if not all(math.isfinite(mean_score(scores)) for scores in seeds):
        return None, None
    if len(seeds) == 1 and seeds[0].clusters.count < 2:
        return None, None
    generator = np.random.default_rng(seed)
    choice = generator.integers(0, len(seeds), (_RESAMPLES, len(seeds)))
    means = np.empty(choice.shape)
    for index, scores in enumerate(seeds):
        drawn = int((choice == index).sum())
        means[choice == index] = _resampled(scores, drawn, generator)
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _resampled(scores: Scores, draws: int, generator: np.random.Generator) -> np.ndarray:
    """`mean_score` of so many resamples of the clusters, float64 [draws]."""
    rows = scores.clusters.count
    values, member = (
        np.stack([np.bincount(scores.clusters.index, column, rows) for column in table.T], axis=1)
        for table in (scores.values, scores.member.astype(np.float64))
    )
    found = np.empty(draws)
    block = max(1, _BLOCK // rows)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        weights = generator.multinomial(rows, np.full(rows, 1.0 / rows), size).astype(np.float64)
        with np.errstate(invalid="ignore"):
            # A resample may hold no question of a small metric: the others speak for it.
            found[start : start + size] = np.nanmean((weights @ values) / (weights @ member), axis=1)
    return found


def gain_metric(name: str, seeds: Sequence[Scores], seed: int) -> Metric:
    """A mean gain over seeds in points, with its interval.

    Args:
        name: Its id.
        seeds: Gains of the questions of each seed, as shares.
        seed: Seed of the bootstrap.
    """
    low, high = hierarchical_interval(seeds, seed)
    value = finite(100.0 * float(np.mean([mean_score(scores) for scores in seeds])))
    return Metric(
        id=name,
        value=value,
        n=sum(len(scores.values) for scores in seeds),
        direction="lower",
        low=None if low is None else 100.0 * low,
        high=None if high is None else 100.0 * high,
        interval=None if low is None else "bootstrap" if len(seeds) == 1 else "hierarchical bootstrap",
        unit=None if low is None else seeds[0].clusters.unit,
        clusters=None if low is None else seeds[0].clusters.count,
    )


def over_seeds(
    make: Callable[[Sequence[Answered], Sequence[Answered]], list[Metric]],
    seeds: Sequence[tuple[Sequence[Answered], Sequence[Answered]]],
    prefix: str,
    seed: int,
) -> list[Metric]:
    """Metrics of every group, as means over seeds with intervals over seeds and questions.

    Args:
        make: Makes the metrics of one seed from its answers and, for differences, the ones to subtract.
        seeds: Per seed the answers and what is subtracted from them; nothing is, where the latter are empty.
        prefix: What the ids start with, before the group.
        seed: Seed of the bootstrap.

    Returns:
        With one seed what `make` gives; with several its ids, direction and chance, `n` over all seeds, and the mean
        over the seeds in which a group was measured.
    """
    if len(seeds) == 1:
        return make(*seeds[0])
    pooled = make([a for mine, _ in seeds for a in mine], [b for _, other in seeds for b in other])
    groups: dict[str, list[Scores]] = {}
    for mine, other in seeds:
        found: dict[str, list[tuple[Record, float]]] = {}
        for index, answer in enumerate(mine):
            for group in groups_of(answer.record.task):
                for name, share in answer.values.items():
                    less = other[index].values[name] if other else 0.0
                    found.setdefault(f"{prefix}.{group}.{name}", []).append((answer.record, share - less))
        for name, pairs in found.items():
            column = np.array([[share] for _, share in pairs])
            clusters = clusters_of([record for record, _ in pairs])
            groups.setdefault(name, []).append(Scores(("",), column, np.ones(column.shape, bool), clusters))
    metrics = []
    for metric in pooled:
        tables = groups[metric.id]
        low, high = hierarchical_interval(tables, seed)
        value = finite(float(np.mean([mean_score(table) for table in tables])))
        metrics.append(
            metric.model_copy(
                update={
                    "value": value,
                    "low": low,
                    "high": high,
                    "interval": None if low is None else "hierarchical bootstrap",
                    "unit": None if low is None else tables[0].clusters.unit,
                    "clusters": None if low is None else tables[0].clusters.count,
                }
            )
        )
    return metrics


def chance_of(answers: Sequence[Answered]) -> float:
    """The mean score of guessing; a free answer counts as never guessed."""
    guesses: dict[str, list[float]] = {}
    for answer in answers:
        top = answer.record.task.split(".")[0]
        for name in answer.values:
            options = answer.record.options
            guesses.setdefault(f"{top}.{name}", []).append(1.0 / len(options) if options else 0.0)
    return float(np.mean([np.mean(values) for values in guesses.values()]))


def recovery(
    role: str,
    curves: Sequence[Mapping[int, float]],
    chances: Sequence[float],
    full: Sequence[float] | None,
    share: float,
    within: int,
) -> Recovery | None:
    """When the knowledge was back.

    Args:
        role: Whose curves these are.
        curves: Per seed: measured step -> score from 0 to 1, step 0 among them.
        chances: Per seed what guessing reaches.
        full: Per seed what the reference reaches on the same questions; None to take every answer right.
        share: Share of the knowledge above chance that counts as back.
        within: Steps of the attack.

    Returns:
        None where the reference itself does not lie above chance, so that there is nothing to recover, or where an
        answer could not be measured.
    """
    tops = [1.0] * len(curves) if full is None else list(full)
    if any(not top > chance for top, chance in zip(tops, chances, strict=True)):
        return None
    if not all(math.isfinite(score) for curve in curves for score in curve.values()):
        return None
    levels = [chance + share * (top - chance) for top, chance in zip(tops, chances, strict=True)]
    return Recovery(
        model=role,
        share=share,
        of="perfect" if full is None else "reference",
        level=float(np.mean(levels)),
        steps=[
            next((step for step, score in sorted(curve.items()) if score >= level - _ROUNDING), None)
            for curve, level in zip(curves, levels, strict=True)
        ],
        within=within,
    )


def recovery_metric(name: str, found: Recovery) -> Metric:
    """The median over seeds as a number for gates; a seed that never got there counts as one step more than there were.

    Args:
        name: Its id.
        found: From `recovery`.
    """
    steps = [found.within + 1 if step is None else step for step in found.steps]
    return Metric(id=name, value=float(statistics.median(steps)), n=len(steps), direction="higher")
