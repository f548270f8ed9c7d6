"""Forget quality: are a model's truth ratios distributed like those of a model that never knew?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record, groups_of, to_forget
from vkdsurgeon.evaluation.answered import Answered
from vkdsurgeon.evaluation.metrics import metric_names
from vkdsurgeon.results.evaluation import Metric

_NAMES = ("forget_quality", "ks")


def quality_ids(set_name: str, records: Sequence[Record], *, forget: bool) -> list[str]:
    """Ids that `forget_quality` will give for these records."""
    groups = {group: None for record in records if forget and _counts(record) for group in groups_of(record.task)}
    return [f"{set_name}.{group}.{name}" for group in groups for name in _NAMES]


def forget_quality(
    set_name: str, answers: Sequence[Answered], gold: Sequence[Answered], *, forget: bool
) -> list[Metric]:
    """Two-sample Kolmogorov-Smirnov test of the truth ratios of model and gold (TOFU, arXiv 2401.06121, section 2.2).

    Args:
        set_name: First part of the ids.
        answers: Answers of the model.
        gold: Answers of a model that never saw what is to be forgotten, to the same records.
        forget: Whether the set holds what is to be forgotten; else there is nothing to compare.

    Returns:
        Per group `forget_quality`, the p-value (the literature plots its logarithm), and `ks`, the statistic: the
        largest distance between the two distribution functions, from 0 to 1.
    """
    from scipy.stats import ks_2samp

    groups: dict[str, list[tuple[float, float]]] = {}
    for mine, theirs in zip(answers, gold, strict=True):
        if forget and _counts(mine.record):
            pair = tuple(np.nan if each is None else each for each in (mine.truth_ratio, theirs.truth_ratio))
            for group in groups_of(mine.record.task):
                groups.setdefault(group, []).append((pair[0], pair[1]))
    metrics = []
    for group, pairs in groups.items():
        table = np.array(pairs)
        tested = ks_2samp(table[:, 0], table[:, 1]) if np.isfinite(table).all() else None
        for name, value in zip(
            _NAMES, (None, None) if tested is None else (tested.pvalue, tested.statistic), strict=True
        ):
            metrics.append(
                Metric(
                    id=f"{set_name}.{group}.{name}",
                    value=None if value is None else float(value),
                    n=len(pairs),
                    direction="higher" if name == "forget_quality" else "lower",
                )
            )
    return metrics


def _counts(record: Record) -> bool:
    return isinstance(record, ProtocolRecord) and "truth_ratio" in metric_names(record) and to_forget(record)
