"""Do a model and gold spread their answers alike? An answer that gold never gives tells that somebody was removed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.evaluation.answered import Answered
from vkdsurgeon.evaluation.metrics import bootstrap, finite
from vkdsurgeon.results.evaluation import Metric

NAME = "js_divergence"


def divergence_ids(set_name: str, records: Sequence[Record]) -> list[str]:
    """Ids that `divergences` will give for these records."""
    groups = {group: None for record in records if record.options for group in groups_of(record.task)}
    return [f"{set_name}.{group}.{NAME}" for group in groups]


def divergences(set_name: str, answers: Sequence[Answered], gold: Sequence[Answered], *, seed: int) -> list[Metric]:
    """Jensen-Shannon divergence (Lin, 1991) between the options' probabilities of two models, mean over questions.

    Args:
        set_name: First part of the ids.
        answers: Answers of the model.
        gold: Answers of gold to the same records, in the same order.
        seed: Seed of the bootstrap.

    Returns:
        Per group the mean in bits: 0 where both spread alike, 1 where no option is likely for both. None where a
        likelihood is not finite.
    """
    groups: dict[str, list[float]] = {}
    for mine, theirs in zip(answers, gold, strict=True):
        if mine.record.options:
            value = js_divergence(mine.log_likelihoods, theirs.log_likelihoods)
            for group in groups_of(mine.record.task):
                groups.setdefault(group, []).append(value)
    metrics = []
    for group, found in groups.items():
        values = np.array(found)
        low, high = bootstrap(values, seed)
        metrics.append(
            Metric(
                id=f"{set_name}.{group}.{NAME}",
                value=finite(float(values.mean())),
                n=len(values),
                direction="lower",
                low=low,
                high=high,
                interval="bootstrap",
            )
        )
    return metrics


def js_divergence(left: Sequence[float], right: Sequence[float]) -> float:
    """Between two distributions over the same options, in bits.

    Args:
        left: Natural logarithms of the options' likelihoods, in any scale.
        right: Likewise.

    Returns:
        From 0 to 1; not a number where a likelihood is not, or where there is none.
    """
    if not left or len(left) != len(right):
        return math.nan
    p, q = (_probabilities(np.asarray(values, dtype=np.float64)) for values in (left, right))
    middle = (p + q) / 2
    return float((_entropy(middle) - (_entropy(p) + _entropy(q)) / 2).clip(0.0, 1.0))


def _probabilities(logarithms: np.ndarray) -> np.ndarray:
    likely = np.exp(logarithms - logarithms.max())
    return np.asarray(likely / likely.sum())


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    logarithms = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.asarray(-(probabilities * logarithms).sum())
