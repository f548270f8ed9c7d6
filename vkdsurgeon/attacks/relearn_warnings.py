"""Warnings about results of relearning attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vkdsurgeon.attacks.relearn_data import Utility
from vkdsurgeon.attacks.relearn_metrics import RelearnMetrics
from vkdsurgeon.results.evaluation import Metric

# More than this share of utility lost to the attack itself is worth a warning.
_UTILITY_LOSS = 0.05
# Below this, what the reference knows beyond gold is no room for anything to come back.
_ROOM = 0.05
# An attacker whose loss stays above this share of where it began has not learned what it was shown; a loss below
# `_KNOWN` nats per token has nothing to learn from.
_UNLEARNED, _KNOWN = 0.8, 0.1


@dataclass(frozen=True)
class RelearnWarnings:
    """Sentences about one attack; `common` are those that hold for all attacks of a plan alike."""

    common: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def every(self) -> tuple[str, ...]:
        """The warnings common to all attacks, then those of this one."""
        return self.common + self.own


def relearn_warnings(found: RelearnMetrics, utility: Utility, *, gold: bool, heldout: bool) -> RelearnWarnings:
    """Warn of what makes an AG say less than it seems to.

    Args:
        found: The attack's metrics.
        utility: What utility was measured on.
        gold: Whether gold was attacked alike.
        heldout: Whether other views were measured.
    """
    common = []
    if utility.part is None:
        common.append("utility was not measured (`retain`): a destroyed model looks robust against any attack")
    elif utility.part == "utility":
        common.append(
            "utility was measured on the other questions of the forget or held-out file only; give `retain` for what "
            "is to be kept"
        )
    if not gold:
        common.append("no gold model was attacked (`gold`), so AG includes what anybody would learn from the same data")
    if not heldout:
        common.append("measured on the forget set's own images; give `heldout` for other views")
    return RelearnWarnings(
        tuple(common), (*_divergence(found), *_room(found), *_effort(found), *_cost(found.metrics, utility))
    )


def _divergence(found: RelearnMetrics) -> list[str]:
    warnings = []
    for role, steps in found.diverged.items():
        where = ", ".join(str(step) for step in sorted(set(steps)))
        warnings.append(
            f"the attack on {'gold' if role == 'gold' else 'the model'} diverged at step {where}"
            f"{f' with {len(steps)} of {len(found.seeds)} seeds' if len(found.seeds) > 1 else ''}: its AG is not a "
            "number and says nothing about what could come back; use a smaller `lr`"
        )
    return warnings


def _room(found: RelearnMetrics) -> list[str]:
    values = {metric.id: metric for metric in found.metrics}
    warnings = []
    if found.room is not None:
        value, low, _ = found.room
        if value is not None and (low is None or low <= _ROOM):
            warnings.append(
                f"reference and gold differ by {100 * value:.1f} points only on the measured questions (chance "
                f"{100 * found.floor:.1f} %), so there is hardly anything that could come back and AG says nothing"
            )
    for name in found.ag_over:
        base = values.get(f"reference.relearn.before.{name}")
        if base and base.chance is not None and base.low is not None and base.low <= base.chance:
            warnings.append(f"{base.id} is not clearly above chance ({base.chance:.3f}): there was nothing to forget")
    return warnings


def _effort(found: RelearnMetrics) -> list[str]:
    first, last = found.learned
    if first > _KNOWN and last > _UNLEARNED * first:
        return [
            f"the attacker hardly learned what it was shown (loss {first:.2f} at the first step, {last:.2f} at the "
            "last), so this AG says nothing; give it more steps or a larger `lr`"
        ]
    return []


def _cost(metrics: Sequence[Metric], utility: Utility) -> list[str]:
    warnings = []
    values = {metric.id: metric for metric in metrics}
    start = f"relearn.{utility.part}.after."
    for metric in metrics:
        kind = metric.id.removeprefix(start)
        if not metric.id.startswith(start) or kind.count(".") != 1:
            continue
        before = values[f"relearn.{utility.part}.before.{kind}"]
        if before.chance is not None and before.low is not None and before.low <= before.chance:
            warnings.append(f"{before.id} is not above chance: the model is of no use, so its AG says nothing")
        elif before.value is not None and metric.value is not None and metric.value < before.value - _UTILITY_LOSS:
            warnings.append(
                f"the attack itself cost utility ({kind} from {before.value:.3f} to {metric.value:.3f}); a gentler one "
                "may bring back more"
            )
    return warnings
