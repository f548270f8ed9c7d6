"""The learning rate over time."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, steps: int, warm_up: int = 20) -> float:
    """Linear warm-up, then a cosine down to 2 % at the last step."""
    warm_up = min(warm_up, max(steps // 4, 1))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(steps - warm_up, 1)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
