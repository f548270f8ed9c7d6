"""From an evaluation's many metrics to the few columns of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vkdsurgeon.comparison.schema import Cell
from vkdsurgeon.evaluation.schema import Metric

FORGET, NAME, GENERAL, RETAIN, TEXT = "forget", "forget.name", "forget.general", "retain", "text"
SECONDS, CPU_SECONDS, MEMORY, FLOPS, SCORE = "seconds", "cpu_seconds", "peak_memory_mib", "tera_flops", "score"
# The metric of closed questions first, then those of free answers.
_ORDER = ("accuracy", "rouge_l")


def ag_of(protocol: str) -> str:
    """The id of a protocol's AG."""
    return f"{protocol}.relearn.ag"


def headline(metrics: Sequence[Metric]) -> dict[str, float | None]:
    """The columns that an evaluation gives.

    `forget`: questions of the forget set that are to be answered no more, over all tasks that are not divided further;
    `forget.name`: task `vqa.name`, where there is one; `forget.general`: the forget set's questions that are to be
    answered as before; `retain` and `text`: all of their set's. Accuracy where there are options, else ROUGE-L.
    """
    found: dict[str, float | None] = {}
    for column, set_name, direction in (
        (FORGET, "forget", "lower"),
        (GENERAL, "forget", "higher"),
        (RETAIN, "retain", "higher"),
        (TEXT, "text", "higher"),
    ):
        value = _mean(metrics, set_name, direction)
        if value is not None:
            found[column] = value
    for metric in metrics:
        if metric.id == "forget.vqa.name.accuracy":
            found[NAME] = metric.value
    return found


def _mean(metrics: Sequence[Metric], set_name: str, direction: str) -> float | None:
    for kind in _ORDER:
        chosen = [
            metric
            for metric in metrics
            if metric.id.startswith(f"{set_name}.")
            and metric.id.count(".") == 2
            and metric.id.endswith(f".{kind}")
            and metric.direction == direction
            and metric.value is not None
        ]
        total = sum(metric.n for metric in chosen)
        if total:
            return sum((metric.value or 0.0) * metric.n for metric in chosen) / total
    return None


def score(
    cell: Mapping[str, float | None],
    base: Mapping[str, float | None],
    gold: Mapping[str, float | None] | None,
    protocols: Sequence[str],
) -> float | None:
    """Forget near gold x retain kept x resistance to relearning, 0 to 1; see `ComparisonResult`."""
    forget, retain, kept = cell.get(FORGET), cell.get(RETAIN), base.get(RETAIN)
    if gold is None or forget is None or retain is None or not kept:
        return None
    ideal = gold.get(FORGET)
    pairs = [(cell.get(ag_of(protocol)), gold.get(ag_of(protocol))) for protocol in protocols]
    known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    if ideal is None or len(known) != len(pairs) or not pairs:
        return None
    resistance = sum(1 - max(0.0, mine - theirs) / 100 for mine, theirs in known) / len(known)
    return (1 - abs(forget - ideal)) * min(1.0, retain / kept) * resistance


def values_of(cells: Sequence[Cell]) -> list[str]:
    """Every column that some cell has, in a fixed order."""
    order = [
        FORGET,
        NAME,
        GENERAL,
        RETAIN,
        TEXT,
        ag_of("people"),
        ag_of("pairs"),
        SCORE,
        SECONDS,
        CPU_SECONDS,
        MEMORY,
        FLOPS,
    ]
    present = {name for cell in cells for name in cell.values}
    return [name for name in order if name in present]
