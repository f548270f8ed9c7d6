"""`vkdsurgeon diff`: which tensors, how many elements, what is identical."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import SensedParts, TablePrinting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vkdsurgeon.results.difference import DiffResult
    from vkdsurgeon_cli.tables import Sheet


@dataclass
class _Layer:
    """What changed in one layer."""

    part: str
    tensors: int = 0
    elements: int = 0
    changed: int = 0


def diff(
    *,
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The original checkpoint directory.")],
    patched: Annotated[Path, typer.Argument(metavar="PATCHED", help="The checkpoint directory to compare with it.")],
    only_visual: Annotated[
        bool, typer.Option("--only-visual", help="End with status 3 if a tensor outside tower and projector differs.")
    ] = False,
    only_declared: Annotated[
        bool,
        typer.Option(
            "--only-declared",
            help="Like --only-visual, but allow the tensors that PATCHED's record declares as changed "
            "(by a decoder pass or another method), and no more elements than declared.",
        ),
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every changed tensor, not layers.")] = False,
    parts: SensedParts,
    printing: TablePrinting,
) -> None:
    """Compare two checkpoints byte by byte.

    The status is 0 even if they differ, unless --only-visual or --only-declared is given.
    """
    import vkdsurgeon
    from vkdsurgeon.errors import GateFailed, UserError

    output = printing.begin("comparing")
    # Reading all weights a second time is for documents alone, where the report has to know what belongs together.
    found = vkdsurgeon.diff(base, patched, **vars(parts), digests=output.as_json)
    if (only_visual or only_declared) and found.split_error:
        option = "--only-visual" if only_visual else "--only-declared"
        raise UserError(
            f"{option} cannot be told for this model: {found.split_error}",
            where=base,
            remedy="name the parts with --tower and --projector",
        )
    output.document(found.model_dump(mode="json"), lambda: _shown(found, tensors, output.columns))
    if only_visual and found.outside_visual:
        names = found.outside_visual
        raise GateFailed([f"{len(names)} tensor(s) outside tower and projector differ, such as {names[0]}"])
    if only_declared and found.undeclared:
        names = found.undeclared
        raise GateFailed(
            [f"{len(names)} tensor(s) differ beyond what a decoder pass or method has on record, such as {names[0]}"]
        )


def _shown(found: DiffResult, tensors: bool, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from vkdsurgeon_cli.tables import pairs

    parts: list[RenderableType] = [Text(sentence) for sentence in _verdict(found)]
    if found.changed:
        parts += ["", (_tensors(found) if tensors else _layers(found)).fitted(width)]
    return Group(*parts, pairs(_files(found), width))


def _verdict(found: DiffResult) -> list[str]:
    if found.identical:
        return [f"Identical: {found.tensors_compared} tensors, {len(found.files)} files."]
    counts = (
        f"{found.tensors_changed} of {found.tensors_compared} tensors differ, {found.elements_changed:,} of "
        f"{found.elements_compared:,} elements; every other element is identical."
    )
    if found.split_error:
        return [counts, f"What is visual and what is language could not be told: {found.split_error}."]
    if found.undeclared:
        count, first = len(found.undeclared), found.undeclared[0]
        return [f"{count} tensors OUTSIDE tower and projector differ, such as {first}.", counts]
    if found.outside_visual:
        return [
            f"{len(found.outside_visual)} tensors of the language model differ, as PATCHED's record of a decoder pass "
            "or method declares; no more of their elements differ than it says.",
            counts,
        ]
    return ["Everything outside tower and projector is identical.", counts]


def _layers(found: DiffResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet

    layers: dict[str, _Layer] = {}
    for tensor in found.changed:
        layer = layers.setdefault(_layer_of(tensor.tensor), _Layer(tensor.part))
        layer.tensors += 1
        layer.elements += tensor.elements
        layer.changed += tensor.changed
    sheet = Sheet("changed tensors by layer (--tensors lists each)")
    sheet.column("layer", "left")
    sheet.column("part", "left", drop=2)
    sheet.column("tensors", drop=3)
    sheet.column("changed")
    sheet.column("of", drop=1)
    sheet.column("share")
    for name, each in layers.items():
        share = f"{each.changed / max(each.elements, 1):.2%}"
        sheet.row(name, each.part, f"{each.tensors}", f"{each.changed:,}", f"{each.elements:,}", share)
    return sheet


def _tensors(found: DiffResult) -> Sheet:
    from vkdsurgeon_cli.tables import Sheet

    sheet = Sheet("changed tensors")
    sheet.column("tensor", "left")
    sheet.column("part", "left", drop=2)
    sheet.column("changed")
    sheet.column("of", drop=1)
    sheet.column("share")
    for tensor in found.changed:
        share = f"{tensor.changed / max(tensor.elements, 1):.2%}"
        sheet.row(tensor.tensor, tensor.part, f"{tensor.changed:,}", f"{tensor.elements:,}", share)
    return sheet


def _layer_of(tensor: str) -> str:
    """The numbered block that a tensor belongs to, or the module it lies in."""
    words = tensor.split(".")
    number = next((place for place, word in enumerate(words) if word.isdecimal()), None)
    return ".".join(words[: len(words) - 1 if number is None else number + 1])


def _files(found: DiffResult) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for what, names in (
        ("tensors only in BASE", found.tensors_missing),
        ("tensors only in PATCHED", found.tensors_added),
        ("files changed", found.files_that_are("changed")),
        ("files only in BASE", found.files_that_are("missing")),
        ("files only in PATCHED", found.files_that_are("extra")),
    ):
        if names:
            rows.append((what, f"{len(names)}: {', '.join(names)}"))
    return rows if found.identical else [*rows, ("files identical", len(found.files_that_are("identical")))]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "diff",
        diff,
        "diff model/ patched/",
        "diff model/ patched/ --only-visual",
        "diff model/ patched/ --tensors",
    )
