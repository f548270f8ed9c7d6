"""Read tower and projector from disk, once; the language model's bytes are never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vkdsurgeon.checkpoint.exact import would_change
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.split import Split, split_checkpoint
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.vision import VisualStack


def load_visual_stack(
    root: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
) -> VisualStack:
    """Load tower and projector of a checkpoint; everything else stays on disk.

    Args:
        root: The checkpoint directory.
        device: Where tower and projector go.
        dtype: Dtype of the parameters in memory; must hold the values on disk exactly.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, where the rule gets it wrong.
        modality: What the tower takes in.

    Returns:
        The stack; each visual tensor is proven to map back to its bytes on disk.

    Raises:
        UserError: The checkpoint is incomplete, contradictory, of an unknown kind, or holds NaN or infinity.
    """
    inventory = take_inventory(root)
    split = split_checkpoint(inventory, tower=tower, projector=projector, dtype=dtype, modality=modality)
    # First the computed buffers, then the values from disk: nothing can initialise what was read.
    _compute_buffers(split)
    stack = VisualStack(inventory, split)
    aliases, state = _aliases(stack.model), stack.model.state_dict()

    def put(target: str, value: torch.Tensor) -> None:
        held = nn.Parameter(value) if target in aliases else value
        for alias in aliases.get(target, [target]):
            _place(stack.model, alias, held)

    for name, target in split.targets.items():
        disk = _read(stack, name)
        value = disk.to(state[target].dtype, copy=True)
        _check_way_back(stack, {name: disk}, {target: value})
        put(target, value)
    for group in split.rebuilt:
        tensors = {name: _read(stack, name) for name in group.sources}
        values = {
            target: value.to(state[target].dtype, copy=True)
            for target, value in group.to_model(tensors, stack.model).items()
        }
        _check_way_back(stack, tensors, values)
        for target, value in values.items():
            put(target, value)
    for parameter in stack.model.parameters():
        parameter.requires_grad_(not parameter.is_meta and parameter.is_floating_point())
    return stack.to(device)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Parameter name -> every name it goes by in the module (more than one where weights are tied)."""
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    return {group[0]: group for group in names.values()}


def _read(stack: VisualStack, name: str) -> torch.Tensor:
    """One tensor as it lies on disk; it is read once."""
    disk = read_tensor(stack.inventory, name)
    # An infinite buffer is a bound that is none, as Gemma 4 has them.
    is_buffer = stack.split.targets.get(name) in stack.split.placement.visual_buffers
    wrong = torch.isnan(disk) if is_buffer else ~torch.isfinite(disk)
    if disk.is_floating_point() and bool(wrong.any()):
        raise UserError(
            "NaN or infinity in a visual tensor",
            where=_where(stack, name),
            value=int(wrong.sum()),
            expected="finite values",
            remedy="start from a checkpoint that was not damaged in training or export",
        )
    return disk


def _check_way_back(
    stack: VisualStack, tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]
) -> None:
    """Check that parameters would come back to disk as the tensors were that they come from."""
    back = stack.to_disk(values)
    for name, disk in tensors.items():
        if back.keys() != tensors.keys() or not _same_bytes(back[name], disk):
            raise would_change(_where(stack, name), disk.dtype, next(iter(values.values())).dtype)


def _where(stack: VisualStack, name: str) -> str:
    return f"{stack.inventory.root / stack.inventory.tensors[name].file}: tensor {name}"


def _place(model: nn.Module, target: str, value: torch.Tensor) -> None:
    path, _, leaf = target.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)


def _same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    )


def _compute_buffers(split: Split) -> None:
    """Compute the buffers that checkpoints do not hold (rotary tables, position ids), as `from_pretrained` does."""
    model: Any = split.skeleton
    placement = split.placement
    visual = [placement.tower, *placement.projector]

    def is_visual(path: str) -> bool:
        return any(path == prefix or path.startswith(prefix + ".") for prefix in visual)

    for path, module in model.named_modules():
        # Parameters are read from disk; only what holds a buffer, or may set one of its children's, has work to do.
        if not is_visual(path) or next(module.buffers(), None) is None:
            module._is_hf_initialized = True
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.empty_like(buffer, device="cpu"))
    model.initialize_weights()
