"""Metrics with intervals, from the predictions of probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vkdsurgeon.attacks.probe_images import Gallery
from vkdsurgeon.evaluation.metrics import wilson
from vkdsurgeon.results.evaluation import Direction, Metric

FORGET_KINDS = ("identity", "crowd", "reader")
_Z = 1.959963984540054


def row_of(layer: str) -> str:
    """A layer's name as a part of a metric id: `layer-0`."""
    return layer.replace(".", "-")


def measured_metrics(prefix: str, found: Mapping[str, Read], gallery: Gallery, kinds: Sequence[str]) -> list[Metric]:
    """The metrics of one model, from the answers of its probes.

    Args:
        prefix: `reference.`, `gold.` or nothing.
        found: By layer.
        gallery: What they were shown.
        kinds: Which readers there are.
    """
    metrics = []
    for layer, read in found.items():
        for part, kind, indices in _parts(read, gallery, kinds):
            right = np.array([read.right[kind][index] for index in indices], dtype=float)
            low, high = wilson(right)
            metrics.append(
                Metric(
                    id=f"{prefix}probe.{part}{row_of(layer)}.{kind}.accuracy",
                    value=float(right.mean()),
                    n=len(right),
                    direction=_direction(part),
                    low=low,
                    high=high,
                    interval="wilson",
                    chance=_chance(kind, gallery, kinds),
                )
            )
        if "detect" in kinds:
            metrics.append(
                Metric(
                    id=f"{prefix}probe.{row_of(layer)}.detect.auc",
                    value=float(np.mean(read.areas)) if read.areas else None,
                    n=sum(len(tested) for _, tested in gallery.splits),
                    direction="lower",
                    chance=0.5,
                )
            )
    return metrics


def gaps(found: Mapping[str, Read], others: Mapping[str, Read], gallery: Gallery, kinds: Sequence[str]) -> list[Metric]:
    """Model minus gold on the same images, with paired intervals."""
    metrics = []
    for layer, read in found.items():
        for part, kind, indices in _parts(read, gallery, kinds):
            pairs = [(read.right[kind][index], others[layer].right[kind][index]) for index in indices]
            gap = np.array([float(mine) - float(theirs) for mine, theirs in pairs])
            mean = float(gap.mean())
            spread = _Z * float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else None
            metrics.append(
                Metric(
                    id=f"gap.probe.{part}{row_of(layer)}.{kind}.accuracy",
                    value=mean,
                    n=len(gap),
                    direction=_direction(part),
                    low=None if spread is None else mean - spread,
                    high=None if spread is None else mean + spread,
                    interval=None if spread is None else "paired normal",
                )
            )
        if "detect" in kinds:
            known = [float(np.mean(each.areas)) for each in (read, others[layer]) if each.areas]
            metrics.append(
                Metric(
                    id=f"gap.probe.{row_of(layer)}.detect.auc",
                    value=known[0] - known[1] if len(known) == 2 else None,
                    n=sum(len(tested) for _, tested in gallery.splits),
                    direction="lower",
                )
            )
    return metrics


def _parts(read: Read, gallery: Gallery, kinds: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """The groups that accuracy is averaged over: metric prefix, probe, and images."""
    found = []
    for part, forget in (("", True), ("retain.", False)):
        for kind in (kind for kind in FORGET_KINDS if kind in kinds):
            indices = [index for index in sorted(read.right[kind]) if gallery.forget[index] == forget]
            if indices:
                found.append((part, kind, indices))
    return found


def _direction(part: str) -> Direction:
    return "higher" if part else "lower"


def _chance(kind: str, gallery: Gallery, kinds: Sequence[str]) -> float:
    mine, others = len(gallery.people(forget=True)), len(gallery.people(forget=False))
    among_all = kind == "crowd" or (kind == "reader" and "crowd" in kinds)
    return 1.0 / (mine + others if among_all else mine)


@dataclass
class Read:
    """The predictions of the probes of one layer for one model.

    Attributes:
        right: Kind (`identity`, `crowd`, `reader`) -> image -> whether it was named rightly.
        areas: Per split, the area under the curve of forget against others.
    """

    right: dict[str, dict[int, bool]]
    areas: list[float]
