"""A step size that is measured, not guessed: how far one step moves what is to be kept.

A step in weights says nothing about what it does: towers of one width, one random and one trained on a billion images,
differ by orders of magnitude. What carries over is the change of the function. With h the features of a few kept images
and V their variance over images (`features.spread`), a step costs

    c = mean |h(x; theta after) - h(x; theta before)|^2 / V

which grows with the square of the step size. Probe steps, each undone, find the size that costs `step_drift`; while
training, the cost is measured every few steps and the size follows it. No step is to cost more than the bound of the
drift from the teacher leaves room for: costs of steps that have nothing in common add up. A step that costs many times
what it should is undone and the size halved. One that takes the drift past its bound is undone, and retention weighs
twice as much until steps stay within it again: a multiplier on a constraint, as in Platt and Barr, Constrained
differential optimization (NIPS 1987). A smaller step in the same direction would only come to the bound later, and
training would end there. The moments of AdamW settle before the first probe: its very first step is a sign step, the
largest that it ever makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vkdsurgeon.errors import Diverged
from vkdsurgeon.model.processes import ALONE, Processes

# Kept images that a step's cost is measured on, spread evenly over the set.
PROBED = 16
# Steps between two measurements once the size has settled, and how many settle it.
_EVERY, _FIRST = 4, 12
# A step that costs more than this many times its share is undone.
_BAND = 16.0
_PROBES = 12
_CLOSE = 1.5
# Each measurement moves the size by at most this factor.
_NUDGE = 1.25
# Most that the weight of retention is raised to, and by how much it comes down with each measured step that was kept.
_MOST_PRESSURE, _RELEASE = 64.0, 1.25
# The smallest size and the largest, relative to each weight (`optimizer.unit_step`).
_LEAST, _MOST = 1e-6, 8.0


@dataclass
class StepSize:
    """What was measured, for the record.

    Attributes:
        found: Relative step size that the probes found, before training.
        cost: What a step of that size cost, as a share of the variance of kept features.
        last: The size at the end of training, before the decay of the schedule.
        undone: Steps that left the band and were undone.
        pressure: The largest factor on the weight of retention.
    """

    found: float = 0.0
    cost: float = 0.0
    last: float = 0.0
    undone: int = 0
    pressure: float = 1.0


@dataclass
class StepControl:
    """Keeps the cost of a step where it should be, and the drift within its bound.

    Attributes:
        size: Of a step at the peak of the schedule, relative to each weight.
        pressure: Factor on the weight of retention.
        least_pressure: The smallest that it may be.
        record: What was measured.

    Args:
        target: Cost of a step at the peak of the schedule.
        bound: Drift from the teacher that no step may pass.
        look: The student's features of the probe images, one [B, N, D] per batch.
        teacher: The same of the teacher.
        variance: V of these features.
        values: Copies the selected weights.
        put: Writes such a copy back.
        processes: Those that look at the other probe images.
    """

    target: float
    bound: float
    look: Callable[[], list[Tensor]]
    teacher: Sequence[Tensor]
    variance: float
    values: Callable[[], Mapping[str, Tensor]]
    put: Callable[[Mapping[str, Tensor]], None]
    processes: Processes = ALONE
    size: float = 0.0
    pressure: float = 1.0
    least_pressure: float = 1.0
    record: StepSize = field(default_factory=StepSize)

    def probe(self, step: Callable[[float], None], start: float) -> None:
        """Find the size whose step costs `target`; the weights are as before afterwards.

        One step is made, and gone again to different lengths.

        Args:
            step: Makes a step of a given size.
            start: Size to begin with.

        Raises:
            Diverged: No size keeps the features finite.
        """
        before, kept = self.look(), self.values()
        step(start)
        moved = self.values()
        tried, size, cost = start, start, math.nan
        for _ in range(_PROBES):
            self.put({name: value + (moved[name] - value) * (tried / start) for name, value in kept.items()})
            found = self._cost(self.look(), before)
            if math.isfinite(found) or not math.isfinite(cost):
                size, cost = tried, found
            if self.target / _CLOSE < found < self.target * _CLOSE:
                break
            factor = math.sqrt(self.target / found) if 0 < found < math.inf else (10.0 if found == 0 else 0.1)
            tried = min(max(tried * min(max(factor, 0.03), 10.0), _LEAST), _MOST)
        self.put(kept)
        if not math.isfinite(cost):
            raise Diverged(
                f"no step size keeps the features finite (tried down to {size:.1e} of each weight); nothing was "
                "written. Work in float32, or check the checkpoint with `inspect`"
            )
        self.size = size
        self.record.found, self.record.cost, self.record.last = size, cost, size

    def due(self, step: int, steps: int) -> bool:
        """Whether a step of the schedule is measured."""
        return step < _FIRST or step % _EVERY == 0 or step == steps - 1

    def follow(self, step: Callable[[float], None], share: float) -> bool:
        """Make a step and measure it; undo one that leaves the band.

        Args:
            step: Makes a step of a given size.
            share: Of the peak, by the schedule.

        Returns:
            Whether the step was kept.

        Raises:
            Diverged: The smallest step makes features infinite.
        """
        before, kept = self.look(), self.values()
        drift_before = self._cost(before, self.teacher)
        step(self.size * share)
        after = self.look()
        cost, drift = self._cost(after, before), self._cost(after, self.teacher)
        wanted = self._wanted(drift_before) * share * share
        costly, far = not cost <= _BAND * wanted, not drift <= max(self.bound, drift_before)
        if costly or far:
            self.put(kept)
            self.record.undone += 1
        if costly or (far and self.pressure == _MOST_PRESSURE):
            self._halve(cost)
        elif far:
            self.pressure = min(2 * self.pressure, _MOST_PRESSURE)
        else:
            self.pressure = max(self.pressure / _RELEASE, self.least_pressure)
            self._nudge(cost, wanted)
        self.record.last, self.record.pressure = self.size, max(self.record.pressure, self.pressure)
        return not (costly or far)

    def _wanted(self, drift: float) -> float:
        """What a step at the peak is to cost: no more than the room that is left to the bound of drift."""
        room = self.bound - drift
        # Beyond the bound, as another teacher may be at the start, steps are to come nearer and not to be small.
        return min(self.target, max(room, self.target / _BAND)) if room > 0 else self.target

    def _nudge(self, cost: float, wanted: float) -> None:
        """Follow the cost of a step that was kept, which grows with the square of the size; half of that is made up."""
        if cost > 0:
            factor = min(max((wanted / cost) ** 0.25, 1 / _NUDGE), _NUDGE)
            self.size = min(max(self.size * factor, _LEAST), _MOST)

    def favour_retention(self, failed: int) -> None:
        """Retention weighs at least twice as much for every schedule that failed in it alone."""
        self.least_pressure = min(2.0**failed, _MOST_PRESSURE)
        self.pressure = max(self.pressure, self.least_pressure)

    def _halve(self, cost: float) -> None:
        self.size = max(self.size / 2, _LEAST)
        if not math.isfinite(cost) and self.size == _LEAST:
            raise Diverged(
                f"a step of {self.size:.0e} of each weight made features infinite; nothing was written. Work in "
                "float32, or check the checkpoint with `inspect`"
            )

    def _cost(self, after: Sequence[Tensor], before: Sequence[Tensor]) -> float:
        images = float(sum(len(value) for value in after))
        squares = sum(
            float((a.float() - b.float()).square().mean()) * len(a) for a, b in zip(after, before, strict=True)
        )
        images, squares = self.processes.totals([images, squares])
        return squares / max(images, 1) / self.variance

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {"size": self.size, "weight": self.pressure, **vars(self.record)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.size, self.pressure = state["size"], state["weight"]
        self.record = StepSize(**{key: state[key] for key in vars(self.record)})


def probe_images(count: int) -> list[int]:
    """Indices of the images that steps are measured on, evenly spread over so many."""
    return list(range(0, count, max(1, -(-count // PROBED))))[:PROBED]
