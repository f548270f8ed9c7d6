"""What a reader must know before believing a number."""

from __future__ import annotations

from collections.abc import Sequence

from vkdsurgeon.evaluation.schema import Metric
from vkdsurgeon.evaluation.sets import NamedSet

_FEW = 30


def warnings_for(sets: Sequence[NamedSet], metrics: Sequence[Metric]) -> list[str]:
    """Warn of forget numbers that mean little: too few records, no room between base and gold, or below chance.

    Args:
        sets: The sets that were asked.
        metrics: Everything that was measured.
    """
    by_id = {metric.id: metric for metric in metrics}
    found: list[str] = []
    for metric in metrics:
        parts = metric.id.split(".")
        # Top-level groups only: their parts repeat the same story with fewer records.
        if parts[0] not in {named.name for named in sets} or len(parts) != 3 or metric.direction != "lower":
            continue
        if metric.n < _FEW:
            found.append(f"{metric.id} rests on {metric.n} records only; its interval is wide")
        if metric.chance is not None and metric.high is not None and metric.high < metric.chance:
            found.append(
                f"{metric.id} is below chance ({metric.chance:.3f}): the right answer is avoided, which tells that "
                "it was unlearned"
            )
        base, gold = by_id.get(f"reference.{metric.id}"), by_id.get(f"gold.{metric.id}")
        if base and gold and base.low is not None and gold.high is not None and base.low <= gold.high:
            found.append(
                f"{metric.id}: reference ({base.value:.3f}) and gold ({gold.value:.3f}) lie within each other's "
                "noise, so this metric cannot tell forgetting from never having known"
            )
        elif base and base.chance is not None and base.low is not None and base.low <= base.chance:
            found.append(
                f"{metric.id}: the reference itself is not clearly above chance ({base.chance:.3f}), so there is "
                "nothing to forget here"
            )
    return found
