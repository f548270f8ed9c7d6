"""The machine and the kernels that a run computed on, as far as they decide the last bits of its result."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from vkdsurgeon_kernels.backend import OPERATIONS, choose


def environment(device: torch.device, elements: int, processes: int = 1) -> dict[str, Any]:
    """Facts about this machine; no name of a host or a user is among them.

    Args:
        device: Where the run computed.
        elements: How many weights it could move; `kernels` tells the implementation that is chosen for a call over
            all of them.
        processes: How many processes computed together.
    """
    cuda = device.type == "cuda"
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "accelerator": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "kernels": {name: choose(name, device, elements).implementation for name in OPERATIONS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
