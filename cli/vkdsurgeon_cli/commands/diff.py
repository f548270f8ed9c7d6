"""`vkdsurgeon diff`: which tensors, how many elements, what is identical."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vkdsurgeon_cli.options import JsonOption, ProjectorOption, TowerOption
from vkdsurgeon_cli.output import Output

if TYPE_CHECKING:
    from vkdsurgeon.checkpoint.diff import CheckpointDiff

SCHEMA = "vkdsurgeon/diff/1"


def diff(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The original checkpoint directory.")],
    patched: Annotated[Path, typer.Argument(metavar="PATCHED", help="The checkpoint directory to compare with it.")],
    only_visual: Annotated[
        bool,
        typer.Option("--only-visual", help="End with status 3 if any tensor outside tower and projector differs."),
    ] = False,
    only_declared: Annotated[
        bool,
        typer.Option(
            "--only-declared",
            help="Like --only-visual, but allow what PATCHED's own record says a decoder pass or another method "
            "edited: those tensors, and no more elements of them.",
        ),
    ] = False,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints byte by byte.

    A difference is a result, not a failure: the status is 0 whatever differs, unless --only-visual or --only-declared
    is given.
    """
    from vkdsurgeon.checkpoint.diff import diff_checkpoints
    from vkdsurgeon.errors import GateFailed, UserError

    found = diff_checkpoints(base, patched, tower=tower, projector=projector)
    if (only_visual or only_declared) and found.split_error:
        option = "--only-visual" if only_visual else "--only-declared"
        raise UserError(
            f"{option} cannot be told for this model: {found.split_error}",
            where=base,
            remedy="name the parts with --tower and --projector",
        )
    # Reading all weights a second time is for documents alone, where the report has to know what belongs together.
    Output(as_json).document(_facts(found) if as_json else {}, lambda: _table(found))
    if only_visual and found.outside_visual:
        names = found.outside_visual
        raise GateFailed([f"{len(names)} tensor(s) outside tower and projector differ, such as {names[0]}"])
    if only_declared and found.undeclared:
        names = found.undeclared
        raise GateFailed(
            [f"{len(names)} tensor(s) differ beyond what a decoder pass or method has on record, such as {names[0]}"]
        )


def _facts(found: CheckpointDiff) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "base": str(found.base),
        "patched": str(found.patched),
        "base_weights_digest": _digest(found.base),
        "patched_weights_digest": _digest(found.patched),
        "identical": found.identical,
        "language_identical": found.language_identical,
        "declared_by_decoder_pass": found.declared,
        "undeclared": list(found.undeclared),
        "headers_identical": found.headers_identical,
        "tensors_compared": found.compared,
        "tensors_changed": len(found.tensors),
        "elements_compared": found.elements,
        "elements_changed": found.elements_changed,
        "changed": [
            {"tensor": t.name, "part": t.part, "file": t.file, "elements": t.elements, "changed": t.changed}
            for t in found.tensors
        ],
        "tensors_missing": list(found.missing),
        "tensors_added": list(found.added),
        "files": found.files,
        "split_error": found.split_error,
    }


def _digest(root: Path) -> str:
    from vkdsurgeon.checkpoint.digest import weights_digest
    from vkdsurgeon.checkpoint.inventory import take_inventory

    return weights_digest(root, take_inventory(root).shards)


def _table(found: CheckpointDiff) -> Table | str:
    sentences = escape("\n".join(_sentences(found)))
    if not found.tensors:
        return sentences
    table = Table(title="changed tensors", caption=sentences, title_justify="left", caption_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("part")
    for column in ("changed", "of", "share"):
        table.add_column(column, justify="right")
    for tensor in found.tensors:
        share = f"{tensor.changed / max(tensor.elements, 1):.2%}"
        table.add_row(escape(tensor.name), tensor.part, f"{tensor.changed:,}", f"{tensor.elements:,}", share)
    return table


def _sentences(found: CheckpointDiff) -> list[str]:
    if found.identical:
        return [f"identical: {found.compared} tensors, {len(found.files)} files"]
    lines = [
        f"{len(found.tensors)} of {found.compared} tensors differ, {found.elements_changed:,} of {found.elements:,} "
        "elements; every other element is identical",
    ]
    if found.split_error:
        lines.append(f"tensors could not be told apart as visual and language: {found.split_error}")
    elif found.outside_visual and not found.undeclared:
        lines.append(
            f"{len(found.outside_visual)} of these belong to the language model; PATCHED's record of a decoder pass "
            "or method names each of them, and no more elements differ than it says"
        )
    elif found.undeclared:
        lines.append(f"{len(found.undeclared)} of these lie OUTSIDE tower and projector: {found.undeclared[0]}")
    else:
        lines.append("everything outside tower and projector is identical")
    for what, names in (
        ("tensors only in BASE", found.missing),
        ("tensors only in PATCHED", found.added),
        ("files changed", found.files_that_are("changed")),
        ("files only in BASE", found.files_that_are("missing")),
        ("files only in PATCHED", found.files_that_are("extra")),
    ):
        if names:
            lines.append(f"{what} ({len(names)}): {', '.join(names)}")
    lines.append(f"files identical: {len(found.files_that_are('identical'))}")
    return lines


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff)
