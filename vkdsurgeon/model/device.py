"""Where the tower runs, and in what precision its weights are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vkdsurgeon.errors import SurgeryError, UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str, local: int = 0) -> torch.device:
    """Turn `device` into a device that exists; `auto` is CUDA where there is one.

    Args:
        name: As the user gives it.
        local: Number of this process on its machine: where the GPU is left open, it takes the one of that number.

    Raises:
        UserError: Not a device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # A launcher may show each process its own GPU alone.
    if name == "cuda" and local and torch.cuda.device_count() > 1:
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, OverflowError):
        raise UserError("not a device", where="`device`", value=name, expected="auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise UserError(
            "no such GPU",
            where="`device`",
            value=name,
            expected=f"one of {torch.cuda.device_count()} visible CUDA devices",
            remedy="use `device=auto`, or check the driver and CUDA_VISIBLE_DEVICES",
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError("a device that is not supported", where="`device`", value=name, expected="cpu or cuda")
    return device


def resolve_dtype(name: str) -> torch.dtype:
    """Turn `dtype` into a torch dtype.

    Raises:
        UserError: Not one of the supported names.
    """
    if name not in DTYPES:
        raise UserError("not a dtype", where="`dtype`", value=name, expected=" or ".join(DTYPES))
    return DTYPES[name]


def memory_of(device: torch.device) -> int | None:
    """Bytes of a GPU's memory, whoever uses them; None for a CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def room_for_copies(device: torch.device, leave: int) -> int:
    """Bytes of a GPU's memory that copies of what main memory holds may take: half of what is free beyond `leave`.

    Whoever asks next gets half of the rest. 0 for a CPU, whose memory is main memory.
    """
    if device.type != "cuda":
        return 0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(torch.cuda.mem_get_info(device)[0] + unused - leave, 0) // 2


@contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """Say what to do where the GPU has too little memory for the block.

    Args:
        otherwise: Follows "the GPU has too little memory" in the message.

    Raises:
        SurgeryError: It has.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SurgeryError(f"the GPU has too little memory{otherwise}") from error
