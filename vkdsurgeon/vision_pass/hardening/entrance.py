"""What a simulated attacker may do to layers that are not trained: one linear map on what the last of them returns.

A real attacker fine-tunes the whole tower. To simulate that, all of it would have to run, forth and back, in
every step. Where only late layers are trained, a map E on what enters them is moved in the place of all layers before:

    h' = h E,    E the identity at first, moved as any other weight is (its unit step is 1 / D)

This project's own; measured in docs/studies/hardening.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import Parameter

from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.frozen_layers import output_of
from vkdsurgeon.model.vision import VisualStack


@dataclass(frozen=True)
class Entrance:
    """A map between the last frozen layer and the first trained one.

    Attributes:
        layer: The last frozen layer.
        matrix: E, [D, D]; asks for no gradient by itself.
    """

    layer: nn.Module
    matrix: Parameter

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within this context what the layer returns goes through the map, whether the layer runs or is passed over."""
        hook = self.layer.register_forward_hook(lambda layer, given, returned: returned @ self.matrix)
        try:
            yield
        finally:
            hook.remove()


def entrance_of(stack: VisualStack, images: SampleSet, frozen: Sequence[str]) -> Entrance | None:
    """The entrance of the trained layers.

    Args:
        stack: Tower and projector.
        images: The forget set.
        frozen: Names of the frozen layers, as features are tapped, in order.

    Returns:
        None where no layer is frozen, or where a layer returns something else than one tensor of tokens.
    """
    output = output_of(stack, images, frozen[-1]) if frozen else None
    if output is None:
        return None
    width = output.shape[-1]
    matrix = Parameter(torch.eye(width, dtype=output.dtype, device=output.device), requires_grad=False)
    return Entrance(stack.model.get_submodule(stack.taps[frozen[-1]]), matrix)
