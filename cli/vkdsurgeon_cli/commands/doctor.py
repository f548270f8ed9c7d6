"""`vkdsurgeon doctor`: what this machine can do, and why."""

from __future__ import annotations

from typing import Any

import typer
from rich.table import Table

from vkdsurgeon_cli.options import JsonOption
from vkdsurgeon_cli.output import Output

_LARGE = 1 << 30


def doctor(as_json: JsonOption = False) -> None:
    """Show the device, which kernel implementations run here and why, and the versions in use."""
    import torch
    from vkdsurgeon_kernels import choose
    from vkdsurgeon_kernels.backend import OPERATIONS

    from vkdsurgeon.checkpoint.provenance import versions
    from vkdsurgeon.device import resolve_device

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    facts: dict[str, Any] = {
        "schema": "vkdsurgeon/doctor/1",
        "device": str(device),
        "device_name": name,
        "kernels": {
            operation: {"implementation": choice.implementation, "reason": choice.reason}
            for operation in OPERATIONS
            for choice in (choose(operation, device, _LARGE),)
        },
        "versions": versions(),
    }
    Output(as_json).document(facts, lambda: _table(facts))


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("device", f"{facts['device']} ({facts['device_name']})")
    for operation, choice in facts["kernels"].items():
        table.add_row(operation, f"{choice['implementation']}: {choice['reason']} (large workloads)")
    for package, version in facts["versions"].items():
        table.add_row(package, version)
    return table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)
