"""Warnings about results of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vkdsurgeon.data.sets import FORGET, NamedSet
from vkdsurgeon.evaluation.warnings import warnings_for
from vkdsurgeon.results.evaluation import Metric

# A change of more than this counts, in either direction.
_MATTERS = 0.05


def missing_warnings(*, has_retain: bool, has_gold: bool) -> list[str]:
    """Warnings about what was not measured."""
    found = []
    if not has_retain:
        found.append("utility was not measured (`retain`): a destroyed model looks robust against any attack")
    if not has_gold:
        found.append("no gold model was attacked (`gold`), so it is not told what a model that never knew would show")
    return found


def variation_warnings(
    attack: str, names: Sequence[str], metrics: Sequence[Metric], *, has_retain: bool, has_gold: bool
) -> list[str]:
    """Warnings about an attack that asks the same questions under variations.

    Args:
        attack: First part of the metric ids.
        names: The variations.
        metrics: Everything that was measured.
        has_retain: Whether utility was measured.
        has_gold: Whether gold was attacked.
    """
    by_id = {metric.id: metric for metric in metrics}
    return [
        *missing_warnings(has_retain=has_retain, has_gold=has_gold),
        *_start_warnings(attack, by_id),
        *_return_warnings(attack, names, by_id),
        *_cost_warnings(attack, names, by_id),
    ]


def _whole(start: str, metrics: Mapping[str, Metric]) -> list[tuple[str, Metric]]:
    """The metrics of undivided tasks behind `start`: `vqa.accuracy`, not `vqa.name.accuracy`."""
    found = ((name.removeprefix(start), metric) for name, metric in metrics.items() if name.startswith(start))
    return [(rest, metric) for rest, metric in found if rest.count(".") == 1]


def _start_warnings(attack: str, metrics: Mapping[str, Metric]) -> list[str]:
    """Whether base and gold leave room between them, by the rule of evaluations."""
    renamed = [
        metric.model_copy(update={"id": f"{role}{FORGET}.{name.removeprefix(start)}"})
        for role in ("", "reference.", "gold.")
        for start in (f"{role}{attack}.before.",)
        for name, metric in metrics.items()
        if name.startswith(start)
    ]
    return warnings_for([NamedSet(FORGET, ())], renamed)


def _return_warnings(attack: str, names: Sequence[str], metrics: Mapping[str, Metric]) -> list[str]:
    found = []
    for rest, before in _whole(f"{attack}.before.", metrics):
        gains = {name: metrics.get(f"{attack}.gain.{name}.{rest}") for name in names}
        certain = {
            name: gain.value
            for name, gain in gains.items()
            if gain is not None and gain.value is not None and gain.value > _MATTERS and (gain.low or 0.0) > 0.0
        }
        if before.direction != "lower" or before.value is None or not certain:
            continue
        most = max(certain, key=lambda name: certain[name])
        gold, ceiling = (metrics.get(f"{role}.{attack}.{most}.{rest}") for role in ("gold", "reference"))
        others = [f"{name} {other.value:.3f}" for name, other in (("gold", gold), ("reference", ceiling))
                  if other is not None and other.value is not None]  # fmt: skip
        beside = f" ({', '.join(others)} under the same)" if others else ""
        found.append(
            f"{rest} rises from {before.value:.3f} to {before.value + certain[most]:.3f} under {most}{beside}; it "
            f"rises by more than {_MATTERS:g} under {len(certain)} of {len(names)} variations"
        )
    return found


def _cost_warnings(attack: str, names: Sequence[str], metrics: Mapping[str, Metric]) -> list[str]:
    found = []
    for rest, before in _whole(f"{attack}.retain.before.", metrics):
        if before.chance is not None and before.low is not None and before.low <= before.chance:
            found.append(f"{before.id} is not above chance: the model is of no use, so this attack says nothing")
            continue
        costly = []
        for name in names:
            after = metrics.get(f"{attack}.retain.{name}.{rest}")
            values = [None if metric is None else metric.value for metric in (before, after)]
            if values[0] is not None and values[1] is not None and values[1] < values[0] - _MATTERS:
                costly.append(f"{name} ({values[1]:.3f})")
        if costly:
            found.append(
                f"utility falls as well: retain {rest} is {before.value:.3f} as given, and lower under "
                f"{', '.join(costly)}; little coming back there says little"
            )
    return found
