"""Weights that go somewhere for a while and come back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor
from torch.nn import Parameter


class TemporaryWeights:
    """Move weights within a `with` block; at its end every one has the bits it had before.

    Offsets are float32 whatever the weights are, so that steps too small for bfloat16 add up. Needs memory for a copy
    of the weights and for the offsets.

    Args:
        weights: Parameters by name; changed in place.
    """

    def __init__(self, weights: Mapping[str, Parameter]) -> None:
        self._weights = weights
        self._start: dict[str, Tensor] = {}
        self.offsets: dict[str, Tensor] = {}

    @torch.no_grad()
    def move(self, name: str, by: Tensor) -> None:
        """Add to the offset of one parameter.

        Args:
            name: Which parameter.
            by: Float32, of its shape.
        """
        self.offsets[name] = self.offsets[name] + by if name in self.offsets else by.float()
        self._weights[name].copy_(self._start[name].float() + self.offsets[name])

    def __enter__(self) -> TemporaryWeights:
        self._start = {name: value.detach().clone() for name, value in self._weights.items()}
        return self

    @torch.no_grad()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.offsets:
            self._weights[name].copy_(self._start[name])
        self._start = {}


@contextmanager
def all_trainable(weights: Mapping[str, Parameter]) -> Iterator[None]:
    """Let every parameter ask for gradients within the block, whatever the mask says."""
    before = {name: value.requires_grad for name, value in weights.items()}
    try:
        for value in weights.values():
            value.requires_grad_(True)
        yield
    finally:
        for name, value in weights.items():
            value.requires_grad_(before[name])
