"""Which implementation of an operation runs, and why."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache

import torch

log = logging.getLogger("vkdsurgeon.kernels")

OPERATIONS: dict[str, tuple[str, ...]] = {
    "feature_distillation": ("compiled", "reference"),
    "masked_adamw": ("compiled", "reference"),
    "saliency": ("histogram", "reference"),
}

# torch.compile costs seconds to tens of seconds once per process; below this many elements a step saves less than
# that over a whole run (eager AdamW on 4 M floats takes about 20 ms on one core).
_COMPILE_FROM_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Choice:
    """The implementation chosen for one operation, with the reason in words."""

    operation: str
    implementation: str
    reason: str


def implementations(operation: str) -> tuple[str, ...]:
    """Names of an operation's implementations, fastest first."""
    if operation not in OPERATIONS:
        raise ValueError(f"unknown operation {operation!r}; known: {', '.join(OPERATIONS)}")
    return OPERATIONS[operation]


def choose(operation: str, device: torch.device, elements: int, forced: str = "auto") -> Choice:
    """Choose an implementation.

    Args:
        operation: One of the keys of the operation table.
        device: Where the tensors live.
        elements: Size of the workload of one call.
        forced: An implementation's name, or `auto`.

    Returns:
        The choice; logged once per distinct choice.

    Raises:
        ValueError: The forced implementation does not exist or cannot run here; names those that can.
    """
    names = implementations(operation)
    if forced != "auto":
        if forced not in names:
            raise ValueError(f"{operation} has no implementation {forced!r}; it has {', '.join(names)}")
        obstacle = compile_obstacle(device.type) if forced == "compiled" else None
        if obstacle:
            raise ValueError(f"{operation}: 'compiled' cannot run here ({obstacle}); 'reference' can")
        return _logged(Choice(operation, forced, "asked for"))
    if names[0] != "compiled":
        return _logged(Choice(operation, names[0], "exact in bounded memory on every device"))
    obstacle = compile_obstacle(device.type)
    if obstacle:
        return _logged(Choice(operation, "reference", obstacle))
    if elements < _COMPILE_FROM_ELEMENTS:
        return _logged(Choice(operation, "reference", "too little work per call to pay for compilation"))
    return _logged(Choice(operation, "compiled", f"torch.compile works on {device.type}"))


@lru_cache
def compile_obstacle(device_type: str) -> str | None:
    """Why `torch.compile` cannot run on a device type, or None if it can."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return "TORCH_COMPILE_DISABLE=1"
    if device_type == "cpu":
        compilers = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
        if not any(name and shutil.which(name) for name in compilers):
            return "no C++ compiler on PATH, which torch.compile needs on a CPU"
        return None
    if device_type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton is not installed, which torch.compile needs on a GPU"
        return None
    return f"not tried on {device_type}"


@lru_cache
def _logged(choice: Choice) -> Choice:
    log.info("%s: %s (%s)", choice.operation, choice.implementation, choice.reason)
    return choice
