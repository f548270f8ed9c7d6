"""Paired bootstrap over clusters: questions about one image, and images of one subject, are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vkdsurgeon.data.record import Record

Unit = Literal["subject", "picture", "question"]
RESAMPLES = 2000
# Fewer clusters than this give percentile intervals that are far too narrow (Cameron, Gelbach and Miller, 2008).
FEW_CLUSTERS = 10
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Clusters:
    """Groups of records that are resampled together.

    Attributes:
        unit: What is resampled as a whole.
        index: int64 [n]: the cluster of each record.
        count: Number of clusters.
    """

    unit: Unit
    index: np.ndarray
    count: int


def clusters_of(records: Sequence[Record]) -> Clusters:
    """The widest clusters of which there are enough.

    Subjects where there are ten or more, because everything asked about one subject hangs together; else images where
    there are ten or more, and then the interval is about other images of these same subjects; else whichever of
    images and subjects there are more of, and where nobody has either, single questions.
    """
    candidates: list[tuple[Unit, list[Hashable]]] = [
        ("subject", [record.subject for record in records]),
        ("picture", [record.media for record in records]),
    ]
    found = []
    for unit, keys in candidates:
        # A question without the key is on its own.
        labels = [("", index) if key is None else ("key", key) for index, key in enumerate(keys)]
        if any(key is not None for key in keys):
            numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
            found.append(Clusters(unit, np.array([numbers[label] for label in labels]), len(numbers)))
    enough = [clusters for clusters in found if clusters.count >= FEW_CLUSTERS]
    if enough:
        return enough[0]
    if found:
        return max(found, key=lambda clusters: clusters.count)
    return Clusters("question", np.arange(len(records)), len(records))


def paired_bootstrap(gaps: np.ndarray, clusters: Clusters, seed: int) -> tuple[float | None, float | None]:
    """95 % percentile interval of the mean of paired differences; whole clusters are drawn with replacement.

    Drawing the highest level with replacement and keeping what is below it together is what reproduces the variance of
    nested data best (Davison and Hinkley 1997, section 3.8).

    Args:
        gaps: float [n], one difference per record.
        clusters: Clusters of the same records.
        seed: Seed of the resampling.

    Returns:
        Nothing where there is one cluster only, or a difference that is not a number.
    """
    if clusters.count < 2 or not np.isfinite(gaps).all():
        return None, None
    sums = np.bincount(clusters.index, weights=gaps, minlength=clusters.count)
    sizes = np.bincount(clusters.index, minlength=clusters.count).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    rows = max(1, _BLOCK // clusters.count)
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(0, clusters.count, (min(rows, RESAMPLES - start), clusters.count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
