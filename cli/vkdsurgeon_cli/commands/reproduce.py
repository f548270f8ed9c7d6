"""`vkdsurgeon reproduce`: make a released run again, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import Printing


def reproduce(
    *,
    patched: Annotated[Path, typer.Argument(metavar="PATCHED", help="The patched checkpoint.")],
    base: Annotated[
        Path, typer.Option("--base", "--reference", metavar="DIR", help="The checkpoint it was made from.")
    ],
    forget: Annotated[Path, typer.Option("--forget", metavar="SET", help="The forget set of the run.")],
    retain: Annotated[Path | None, typer.Option("--retain", metavar="SET", help="The retain set of the run.")] = None,
    generic: Annotated[
        Path | None, typer.Option("--generic", metavar="SET", help="The generic set of the run.")
    ] = None,
    text: Annotated[Path | None, typer.Option("--text", metavar="SET", help="The text retain set of the run.")] = None,
    replay: Annotated[
        list[Path] | None, typer.Option("--replay", metavar="FILE", help="The replay files of the run; repeatable.")
    ] = None,
    replay_key: Annotated[
        Path | None, typer.Option("--replay-key", metavar="FILE", help="The key that they are encrypted with.")
    ] = None,
    printing: Printing,
) -> None:
    """Repeat the run that the record in PATCHED describes, in a temporary directory, and compare the results.

    On an equal machine every byte must be the same; on another machine the same weights must change in nearly the same
    way. Anything else is status 3. Base and sets are checked against the record before the run.
    """
    output = printing.begin()
    import vkdsurgeon
    from vkdsurgeon_cli.run_listener import RunListener
    from vkdsurgeon_cli.tables import pairs

    result = vkdsurgeon.reproduce(
        patched,
        base,
        forget,
        retain=retain,
        generic=generic,
        text=text,
        replay=replay,
        replay_key=replay_key,
        on_event=RunListener(output),
    )
    other = (f"{name} {then} -> {now}" for name, (then, now) in result.environment.items())
    rows: list[tuple[str, object]] = [
        ("grade", result.grade),
        ("another than on record", ", ".join(other) or "nothing"),
        ("tensors differing", result.tensors_differing),
        ("difference of the change", f"{result.relative_difference:.3%}"),
        ("cosine of the changes", f"{result.cosine:.6f}"),
        ("same elements moved", f"{result.same_elements:.2%}"),
        ("files differing", ", ".join(result.files_differing) or "none"),
    ]
    output.document(result.model_dump(mode="json"), lambda: pairs(rows, output.columns))
    result.raise_if_failed()


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "reproduce",
        reproduce,
        "reproduce patched/ --base model/ --forget forget.jsonl --retain retain.jsonl",
        summary="Repeat the run that a record describes, and compare.",
    )
