"""Warnings about results of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.results.evaluation import Metric

_FEW = 30
# Of a share. Base and gold closer than this leave no room to show anything in, however many records there are.
_LITTLE_ROOM = 0.05
# What an answer to a question always gives, unless the model is broken.
_OF_ANSWERS = frozenset(
    "accuracy likelihood cloze probability exact contains rouge1 rouge2 rouge_l bleu auc".split()  # noqa: SIM905
)
_NO_MEAN_OF_RECORDS = ("forget_quality", "ks", "js_divergence")


def warnings_for(sets: Sequence[NamedSet], metrics: Sequence[Metric]) -> list[str]:
    """Warn of forget numbers that mean little: too few records, little room between base and gold, or below chance.

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
        group, name = metric.id.rsplit(".", 1)
        if name in _NO_MEAN_OF_RECORDS:
            continue
        few = f"{group} rests on {metric.n} records only; its intervals are wide"
        if metric.n < _FEW and few not in found:
            found.append(few)
        if metric.chance is not None and metric.high is not None and metric.high < metric.chance:
            found.append(
                f"{metric.id} is below chance ({metric.chance:.3f}): the right answer is avoided, which tells that "
                "it was unlearned"
            )
        base, gold = by_id.get(f"reference.{metric.id}"), by_id.get(f"gold.{metric.id}")
        if base and gold and base.value is not None and gold.value is not None and not _apart(base, gold, by_id):
            found.append(
                f"{metric.id}: reference ({base.value:.3f}) lies above gold ({gold.value:.3f}) by "
                + (f"less than {100 * _LITTLE_ROOM:.0f} points" if _little(base, gold) else "no more than noise")
                + ", so this metric cannot tell forgetting from never having known"
            )
        elif base and base.chance is not None and base.low is not None and base.low <= base.chance:
            found.append(
                f"{metric.id}: the reference itself is not clearly above chance ({base.chance:.3f}), so there is "
                "nothing to forget here"
            )
    return found


def broken_model_warnings(metrics: Sequence[Metric]) -> list[str]:
    """Warn where answers could not be measured, which no forgetting explains.

    Args:
        metrics: Everything that was measured.
    """
    missing = [
        metric.id
        for metric in metrics
        if metric.value is None
        and metric.id.rsplit(".", 1)[1] in _OF_ANSWERS
        # After relearning an attack that diverged has no numbers, which is told on its own.
        and not ("relearn." in metric.id and ".before." not in metric.id)
    ]
    if not missing:
        return []
    whose = sorted({name.split(".")[0] for name in missing} & {"reference", "gold"})
    models = " and ".join(whose) if len(whose) and all(name.split(".")[0] in whose for name in missing) else "a model"
    return [
        f"{len(missing)} metrics could not be measured, {missing[0]} among them: {models} gives numbers that are not "
        "finite, or says nothing at all. That is a broken model and no forgetting; a gate on such a metric fails"
    ]


def _apart(base: Metric, gold: Metric, by_id: Mapping[str, Metric]) -> bool:
    """Whether there is something to forget: base above gold by more than noise, and by more than a trifle."""
    if _little(base, gold):
        return False
    room = by_id.get("room." + base.id.removeprefix("reference."))
    if room is not None and room.low is not None:
        return room.low > 0
    return base.low is None or gold.high is None or base.low > gold.high


def _little(base: Metric, gold: Metric) -> bool:
    return base.value is None or gold.value is None or base.value - gold.value < _LITTLE_ROOM
