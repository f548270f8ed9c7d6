"""One file per command; each has `register(app)`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from vkdsurgeon_cli.commands import diff, inspect, unlearn

COMMANDS: tuple[Callable[[typer.Typer], None], ...] = (unlearn.register, inspect.register, diff.register)
