"""Which implementation of an operation runs, and why."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from functools import lru_cache

import torch

log = logging.getLogger("vkdsurgeon.kernels")

OPERATIONS: dict[str, tuple[str, ...]] = {
    "feature_distillation": ("triton", "compiled", "reference"),
    "masked_adamw": ("triton", "compiled", "reference"),
    "saliency_scores": ("triton", "compiled", "reference"),
    # torch.compile has no histogram to generate, so plain PyTorch in chunks stands between Triton and the sort.
    "saliency_selection": ("triton", "histogram", "reference"),
}

# torch.compile costs seconds to tens of seconds once per process; below this many elements a step saves less than
# that over a whole run (eager AdamW on 4 M floats takes about 20 ms on one core).
_COMPILE_FROM_ELEMENTS = 1 << 22
_OLDEST_CAPABILITY = (8, 0)


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
    obstacles = {name: obstacle(name, device) for name in names}
    able = [name for name in names if obstacles[name] is None]
    if forced != "auto":
        if forced not in names:
            raise ValueError(f"{operation} has no implementation {forced!r}; it has {', '.join(names)}")
        if obstacles[forced]:
            raise ValueError(f"{operation}: {forced!r} cannot run here ({obstacles[forced]}); {', '.join(able)} can")
        return _logged(Choice(operation, forced, "asked for"))
    if device.type == "cpu" and "triton" in able:
        able.remove("triton")
        obstacles["triton"] = "the interpreter of Triton is for tests"
    best = able[0]
    if best == "compiled" and elements < _COMPILE_FROM_ELEMENTS:
        return _logged(Choice(operation, "reference", "too little work per call to pay for compilation"))
    # What a look around promises, a trial has to keep.
    while (found := fault(best, device)) is not None:
        log.warning("%s falls back from %s: %s", operation, best, found)
        obstacles[best] = found
        able.remove(best)
        best = able[0]
    passed_over = [f"{name}: {obstacles[name]}" for name in names[: names.index(best)]]
    return _logged(Choice(operation, best, "; ".join(passed_over) or f"the fastest, and it runs on {device.type}"))


def obstacle(implementation: str, device: torch.device) -> str | None:
    """Why an implementation cannot run on a device, or None if it can."""
    if implementation == "triton":
        return triton_obstacle(device)
    return compile_obstacle(device.type) if implementation == "compiled" else None


def fault(implementation: str, device: torch.device) -> str | None:
    """Why an implementation that nothing seems to be in the way of does not work, found by trying; None if it does.

    The first trial takes seconds, and is remembered.
    """
    if implementation == "compiled":
        return _compile_fault(device)
    return _triton_fault(device) if implementation == "triton" and not interpreting() else None


@lru_cache
def _compile_fault(device: torch.device) -> str | None:
    def twice(values: torch.Tensor) -> torch.Tensor:
        return values * 2 + 1

    try:
        found = torch.compile(twice, dynamic=True)(torch.ones(64, device=device))
        return None if bool((found == 3).all()) else "a compiled function gives wrong results"
    except Exception as error:
        # Compilers, linkers, caches and mounts fail in as many ways as there are machines.
        return _told(error, "torch.compile", f"TORCHINDUCTOR_CACHE_DIR ({_inductor_cache()}), CXX")


@lru_cache
def _triton_fault(device: torch.device) -> str | None:
    try:
        from vkdsurgeon_kernels.trial import twice

        found = twice(torch.ones(64, device=device))
        return None if bool((found == 3).all()) else "a Triton kernel gives wrong results"
    except Exception as error:
        return _told(error, "Triton", f"TRITON_CACHE_DIR ({os.environ.get('TRITON_CACHE_DIR', '~/.triton/cache')}), CC")


def _inductor_cache() -> str:
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return str(cache_dir())
    except Exception as error:
        return f"none: {error}"


def _told(error: Exception, what: str, settings: str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    # A compiler's message begins with its command, and says what is wrong further down.
    line = next((line for line in lines if "rror" in line and "Traceback" not in line), lines[0])
    return f"{what} does not work here: {type(error).__name__}: {line[:300]}; it depends on {settings}"


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, which takes tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def triton_obstacle(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on a device, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cpu":
        return None if interpreting() else "Triton needs a GPU"
    if device.type != "cuda":
        return f"not tried on {device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST_CAPABILITY:
        return "the GPU is older than compute capability 8.0"
    return None


@lru_cache
def compile_obstacle(device_type: str) -> str | None:
    """Why `torch.compile` cannot run on a device type, or None if it can."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
        return "TORCH_COMPILE_DISABLE=1"
    if device_type == "cpu":
        named = os.environ.get("CXX", "").split()
        compiler = named[0] if named else "clang++" if sys.platform == "darwin" else "g++"
        if not shutil.which(compiler):
            how = (
                f"CXX names {compiler!r}, which is not there" if named else "no C++ compiler on PATH; CXX may name one"
            )
            return f"{how}; torch.compile needs one on a CPU"
        return None
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed, which torch.compile needs on a GPU"
        return None
    return f"not tried on {device_type}"


@lru_cache
def _logged(choice: Choice) -> Choice:
    log.info("%s: %s (%s)", choice.operation, choice.implementation, choice.reason)
    return choice
