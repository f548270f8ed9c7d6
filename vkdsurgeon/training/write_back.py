"""From trained parameters back to tensors in the dtype on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.saliency import SaliencyMask


class WriteBack:
    """Adds to the tensors on disk what training added to the selected elements, and changes no other.

    Weights may be held in another dtype than on disk: what was not trained keeps every bit all the same.

    Args:
        parameters: Parameters by name, before the first step.
        mask: Which elements may move.
        optimizer: Moves them.
    """

    def __init__(self, parameters: Mapping[str, Parameter], mask: SaliencyMask, optimizer: MaskedAdamW) -> None:
        self._parameters, self._mask, self._optimizer = parameters, mask, optimizer
        self._before = {
            name: optimizer.selected_values(parameters[name]).to("cpu", copy=True) for name in mask.selected
        }

    def changes(self, inventory: Inventory, on_disk: Mapping[str, str]) -> dict[str, Tensor]:
        """The new tensors, of every parameter with a selected element.

        Args:
            inventory: Inventory of the original checkpoint.
            on_disk: Module parameter -> name on disk.

        Returns:
            Name on disk -> tensor in the shape and dtype on disk.
        """
        changes: dict[str, Tensor] = {}
        for name, chosen in self._mask.selected.items():
            disk = read_tensor(inventory, on_disk[name])
            where = chosen.to("cpu").to_bool().reshape(-1)
            moved = self._optimizer.selected_values(self._parameters[name]).cpu().double() - self._before[name].double()
            new = disk.reshape(-1).clone()
            new[where] = (disk.reshape(-1)[where].double() + moved).to(disk.dtype)
            changes[on_disk[name]] = new.reshape(disk.shape)
        return changes


@torch.no_grad()
def round_to_disk(stack: VisualStack, names: Iterable[str]) -> None:
    """Give parameters of a stack the values that whoever reads the written checkpoint finds.

    Updates smaller than the rounding on disk are lost there, and whoever measures should see that.
    """
    parameters = stack.visual_parameters()
    for name in names:
        parameters[name].copy_(stack.on_disk(name, parameters[name]))


@contextmanager
def rounded_to_disk(stack: VisualStack, names: Iterable[str]) -> Iterator[None]:
    """`round_to_disk` for as long as the block lasts, in which no gradients are made."""
    parameters = stack.visual_parameters()
    kept = {name: parameters[name].detach().clone() for name in names}
    round_to_disk(stack, kept)
    with torch.no_grad():
        try:
            yield
        finally:
            for name, value in kept.items():
                parameters[name].copy_(value)
