"""Values on disk that a dtype in memory does not hold, found before a run would stumble over them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.errors import UserError


def check_exact(inventory: Inventory, names: Iterable[str]) -> None:
    """Refuse F64 tensors whose values float32 does not hold exactly; others are not read.

    Args:
        inventory: The checkpoint.
        names: Names on disk.

    Raises:
        UserError: Naming the first such tensor.
    """
    for name in names:
        entry = inventory.tensors[name]
        if entry.dtype == "F64":
            value = read_tensor(inventory, name)
            if not torch.equal(value.float().double(), value):
                raise would_change(f"{inventory.root / entry.file}: tensor {name}", value.dtype, torch.float32)


def would_change(where: str, disk: torch.dtype, memory: torch.dtype) -> UserError:
    """The error where a tensor does not come back to disk as it was.

    Args:
        where: The file and the tensor.
        disk: Its dtype.
        memory: The dtype in which it is trained.
    """
    wide = disk == torch.float64 and memory == torch.float32
    return UserError(
        "the tensor would change when it is written back",
        where=where,
        value=f"{disk} held as {memory}",
        expected="a dtype in memory that holds every value exactly",
        remedy="save the checkpoint in float32, and start from that" if wide else "work in float32",
    )
