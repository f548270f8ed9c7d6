"""A patch applied to a model that is loaded already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vkdsurgeon.checkpoint.names import map_names
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES
from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.errors import UserError
from vkdsurgeon.patch.content import Change
from vkdsurgeon.patch.read import PatchFile, open_stack

_ON_DISK = "apply the patch on disk (`vkdsurgeon patch apply`), and load what comes out"


def apply_to_loaded(model: nn.Module, paths: Sequence[Path]) -> int:
    """Write new values into the parameters of a transformers model, in place.

    Args:
        model: Loaded with `from_pretrained` from the base, in the checkpoint's dtype or a wider one, on any device.
        paths: Patches in the order in which they were made.

    Returns:
        How many elements got new values.

    Raises:
        UserError: The model is of another base, or holds a tensor in another form than on disk. It was not changed.
    """
    patches = open_stack(paths)
    names = sorted({name for patch in patches for name in patch.facts.tensors})
    homes = _homes(model, names, patches[0].path)
    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    count = 0
    # New tensors first, so that a patch for another model changes nothing.
    for name in names:
        home = homes[name]
        new, changed = _patched(name, home, patches)
        made.append((home, new))
        count += changed
    with torch.no_grad():
        for home, new in made:
            home.copy_(new.to(home.device, home.dtype))
    return count


def _homes(model: nn.Module, names: Sequence[str], where: Path) -> dict[str, torch.Tensor]:
    found = map_names(model, names)
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    homes = {}
    for name in names:
        target = found.targets.get(name)
        if target is None or name in found.converted:
            problem = "has no place in the model" if target is None else "is merged or reshaped while it is loaded"
            raise UserError(f"a tensor of the patch {problem}", where=where, value=name, remedy=_ON_DISK)
        homes[name] = state[target]
    return homes


def _patched(name: str, home: torch.Tensor, patches: Sequence[PatchFile]) -> tuple[torch.Tensor, int]:
    """The tensor in its dtype on disk with all new values, on the CPU, and how many these are."""
    count = 0
    current: torch.Tensor | None = None
    for patch in patches:
        facts = patch.facts.tensors.get(name)
        if facts is None:
            continue
        dtype = TORCH_DTYPES[facts.dtype]
        if current is None:
            if list(home.shape) != facts.shape or home.is_meta or not _holds(home.dtype, dtype):
                raise UserError(
                    "the model holds a tensor in another form than the checkpoint",
                    where=f"{patch.path}: {name}",
                    value=f"{home.dtype} {list(home.shape)}",
                    expected=f"{facts.dtype} {facts.shape}, or a wider dtype",
                    remedy=f'load it with dtype="auto", or {_ON_DISK}',
                )
            current = home.detach().to("cpu", dtype)
        change: Change = patch.change(name)
        old = bytes(raw_bytes(current))
        if change.kept_digest(old) != facts.kept:
            raise UserError(
                "the model is not the base of this patch",
                where=f"{patch.path}: {name}",
                expected=f"weights {patches[0].facts.base.weights_digest}, as they were loaded",
                remedy="apply patches once, in order, and before any training, merging or quantisation",
            )
        data = bytearray(change.laid_over(old).reshape(-1).data)
        if hashlib.sha256(data).hexdigest() != facts.result:
            raise UserError("the patch does not give the tensor that it promises", where=f"{patch.path}: {name}")
        current = torch.frombuffer(data, dtype=dtype).reshape(facts.shape)
        count += facts.changed
    assert current is not None
    return current, count


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of one dtype is a value of the other."""
    return wide == narrow or (wide.is_floating_point and torch.promote_types(wide, narrow) == wide)
