"""A vision tower whose first layers are skipped: their stored output is used instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Entering:
    """What enters the first layer that is run, for the images of one batch.

    Attributes:
        frozen: Module paths of the layers that are not run, in order.
        values: What the last of them returned, as the tower lays it out.
    """

    frozen: tuple[str, ...]
    values: Tensor


def laid_out(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Activations of several images as the tower lays them out.

    Args:
        values: [B, N, D].
        shape: Shape of one image's in the tower: [N, D] if images are packed end to end, [1, N, D], or [tiles, N, D].
    """
    if len(shape) == 2:
        return values.flatten(0, 1)
    return values.reshape(-1, *shape[1:]) if shape[0] > 1 else values


@contextmanager
def passed_over(model: nn.Module, entering: Entering) -> Iterator[None]:
    """Within this context the frozen layers do no work, and the last of them returns what it once did.

    Args:
        model: Whose layers.
        entering: What is handed on.
    """
    modules = [model.get_submodule(path) for path in entering.frozen]
    for module in modules[:-1]:
        module.forward = _hand_on
    modules[-1].forward = _returning(entering.values)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _hand_on(hidden_states: Any, *rest: Any, **named: Any) -> Any:
    return hidden_states


def _returning(values: Tensor) -> Callable[..., Tensor]:
    def forward(*rest: Any, **named: Any) -> Tensor:
        return values

    return forward
