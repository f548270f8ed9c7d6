"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.output import ProgressMode

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face checkpoint directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ProgressOption = Annotated[
    ProgressMode, typer.Option("--progress", help="Progress on stderr: auto (terminal only), jsonl, none.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
TowerOption = Annotated[
    str | None, typer.Option("--tower", help="Module path of the vision tower, where the split rule gets it wrong.")
]
ProjectorOption = Annotated[
    list[str] | None,
    typer.Option("--projector", help="Module path(s) of the projector, where the split rule gets it wrong."),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option("--gate", help='A bound such as "forget.vqa.accuracy<=0.10"; missing it ends with status 3.'),
]
