"""`vkdsurgeon doctor`: what this machine can do, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing

if TYPE_CHECKING:
    import torch

_LARGE = 1 << 30


def doctor(*, printing: Printing) -> None:
    """Show the device, the kernel implementations that run here and why, and the installed versions."""
    output = printing.begin()
    import torch
    from vkdsurgeon_kernels.backend import OPERATIONS

    from vkdsurgeon.checkpoint.provenance import versions
    from vkdsurgeon.model.device import resolve_device

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    facts: dict[str, Any] = {
        "schema": "vkdsurgeon/doctor/1",
        "device": str(device),
        "device_name": name,
        "kernels": {operation: _kernel(operation, device) for operation in OPERATIONS},
        "versions": versions(),
    }
    from vkdsurgeon_cli.tables import pairs

    output.document(facts, lambda: pairs(_rows(facts), output.columns))


def _kernel(operation: str, device: torch.device) -> dict[str, Any]:
    """The choice for large workloads, the implementations that can run, and what is in the way of the others."""
    from vkdsurgeon_kernels.backend import choose, fault, implementations, obstacle

    choice = choose(operation, device, _LARGE)
    obstacles = {name: obstacle(name, device) or fault(name, device) for name in implementations(operation)}
    return {
        "implementation": choice.implementation,
        "reason": choice.reason,
        "able": [name for name, why in obstacles.items() if why is None],
        "obstacles": {name: why for name, why in obstacles.items() if why is not None},
    }


def _rows(facts: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("device", f"{facts['device']} ({facts['device_name']})")]
    for operation, kernel in facts["kernels"].items():
        rows.append((operation, f"{kernel['implementation']}: {kernel['reason']} (large workloads)"))
        others = [name for name in kernel["able"] if name != kernel["implementation"]]
        if others:
            rows.append(("", f"can run too: {', '.join(others)}"))
        rows += [("", f"cannot run: {name} ({why})") for name, why in kernel["obstacles"].items()]
    return [*rows, *facts["versions"].items()]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "doctor",
        doctor,
        "doctor",
        "doctor --json",
        summary="Show the device, the kernels that run here and the versions.",
    )
