"""How the step size rises and falls over a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to a peak, and linear decay to zero.

    Attributes:
        steps: Number of optimizer steps.
        warmup: First share of the steps, in which the size rises.
        decay: Last share of the steps, in which it falls.
        peak: The size in between.
    """

    steps: int
    warmup: float
    decay: float
    peak: float = 1.0

    def size(self, step: int) -> float:
        """The size of one step, counted from 0; never zero within the schedule."""
        warm = (step + 1) / (self.warmup * self.steps + 1)
        left = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return self.peak * min(warm, left, 1.0)
