"""One file per command; each has `register(app)`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from vkdsurgeon_cli.commands import (
    aggregate,
    attack,
    attest,
    compare,
    demo,
    diff,
    doctor,
    eval_,
    inspect,
    miniature,
    patch,
    recipe,
    release,
    report,
    reproduce,
    sample,
    tune,
    unlearn,
    verify,
)

COMMANDS: tuple[Callable[[typer.Typer], None], ...] = (
    unlearn.register,
    tune.register,
    eval_.register,
    aggregate.register,
    attack.register,
    compare.register,
    inspect.register,
    sample.register,
    diff.register,
    patch.register,
    report.register,
    verify.register,
    reproduce.register,
    attest.register,
    release.register,
    recipe.register,
    miniature.register,
    demo.register,
    doctor.register,
)
