"""From trained parameters back to tensors on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.baselines.trainer import MethodStep, Part, train
from vkdsurgeon.checkpoint.inventory import Inventory, read_tensor
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.schedule import Schedule


class Movement:
    """Remembers the selected elements, to tell later how far they moved.

    Args:
        parameters: By name.
        mask: Which elements may move.
        optimizer: Moves them.
    """

    def __init__(self, parameters: Mapping[str, Parameter], mask: SaliencyMask, optimizer: MaskedAdamW) -> None:
        self._parameters, self._mask, self._optimizer = parameters, mask, optimizer
        self._before = {
            name: optimizer.selected_values(parameters[name]).to("cpu", copy=True) for name in mask.selected
        }

    def written(self, inventory: Inventory, on_disk: Mapping[str, str]) -> dict[str, Tensor]:
        """The new tensors: what is on disk plus what training added to the selected elements, and to no other.

        Args:
            inventory: Of the original checkpoint.
            on_disk: Module parameter -> name on disk.

        Returns:
            Name on disk -> tensor in the dtype on disk.
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


def train_masked(
    parts: Mapping[str, Part],
    parameters: Mapping[str, Parameter],
    mask: SaliencyMask,
    schedule: Schedule,
    listen: Callable[[MethodStep], None],
    *,
    relative: bool = True,
    weight_decay: float,
    clip: float,
) -> tuple[Movement, MethodStep]:
    """Run a schedule under a mask.

    Args:
        parts: Terms by name.
        parameters: By name; those without a selected element stop asking for gradients.
        mask: Which elements may move.
        schedule: Steps and their size.
        listen: Hears of every step.
        relative: Whether the schedule's size is relative to each weight, or a learning rate.
        weight_decay: Of the selected elements.
        clip: Norm of their gradient at most.

    Returns:
        How far they moved, and the last step.

    Raises:
        SurgeryError: The loss is not finite.
    """
    optimizer = build_optimizer(parameters, mask, relative=relative, weight_decay=weight_decay, max_norm=clip)
    try:
        movement = Movement(parameters, mask, optimizer)
        return movement, train(parts, optimizer, schedule, listen)
    finally:
        optimizer.detach_hooks()
