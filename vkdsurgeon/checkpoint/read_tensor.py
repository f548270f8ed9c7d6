"""Single tensors of a checkpoint; nothing else is read."""

from __future__ import annotations

import hashlib

import torch

from vkdsurgeon.checkpoint.inventory import Inventory, changed
from vkdsurgeon.errors import UserError

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def read_bytes(inventory: Inventory, name: str) -> bytearray:
    """The bytes of one tensor as they lie on disk; nothing else is read.

    Raises:
        UserError: No tensor of this name, or the file became shorter since the inventory.
        SurgeryError: They are others than when they were read before.
    """
    entry = inventory.tensors.get(name)
    if entry is None:
        raise UserError("no such tensor", where=inventory.root, value=name)
    data = bytearray(entry.nbytes)
    view = memoryview(data)
    path = inventory.root / entry.file
    with path.open("rb", buffering=0) as stream:
        stream.seek(entry.begin)
        done = 0
        while done < len(data):
            got = stream.readinto(view[done:])
            if not got:
                raise UserError("the file became shorter while it was read", where=path, value=entry.begin + done)
            done += got
    found = hashlib.sha256(data).hexdigest()
    if inventory.seen.setdefault(name, found) != found:
        raise changed(path)
    return data


def read_tensor(inventory: Inventory, name: str) -> torch.Tensor:
    """One tensor on the CPU, in its dtype and shape on disk.

    Raises:
        UserError: No tensor of this name, or a dtype that torch cannot hold.
    """
    data = read_bytes(inventory, name)
    entry = inventory.tensors[name]
    dtype = TORCH_DTYPES.get(entry.dtype)
    if dtype is None:
        raise UserError(
            "tensors of this dtype cannot be changed",
            where=f"{inventory.root / entry.file}: tensor {name}",
            value=entry.dtype,
            expected="F32, F16 or BF16",
            remedy="start from the checkpoint before it was quantised",
        )
    if not data:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)
