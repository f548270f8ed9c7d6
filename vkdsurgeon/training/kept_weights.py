"""A context that restores weights after a temporary change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def kept_weights(weights: Iterable[Tensor]) -> Iterator[None]:
    """Give every weight back the bits it had, and no gradient, when the block ends.

    A copy of the weights is held in the CPU's memory meanwhile.
    """
    kept = [(weight, weight.detach().to("cpu", copy=True)) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in kept:
                weight.grad = None
                weight.copy_(original)
