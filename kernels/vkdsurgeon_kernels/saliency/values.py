"""What a score may be: finite and not negative. Then its bit pattern, read as an integer, grows with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor


def refuse(position: int) -> NoReturn:
    """Say which score tensor cannot be ranked.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"score {position} has a negative or non-finite value; scores are sums of magnitudes: look for a gradient that "
        "is NaN or infinite"
    )


def check(scores: Sequence[Tensor]) -> None:
    """Refuse scores that are not finite or negative.

    Raises:
        ValueError: A negative or non-finite score.
    """
    for position, score in enumerate(scores):
        if score.numel() == 0:
            continue
        least, most = (float(bound) for bound in score.aminmax())
        if not (least >= 0 and most < float("inf")):
            refuse(position)
