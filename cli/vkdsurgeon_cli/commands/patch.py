"""`vkdsurgeon patch`: ship the changed values alone."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import SETTINGS, add_command
from vkdsurgeon_cli.options import Printing

if TYPE_CHECKING:
    from vkdsurgeon.results.patch import PatchResult


class CompressionName(str, Enum):
    """How masks and values are stored."""

    none = "none"
    zstd = "zstd"


BaseArgument = Annotated[Path, typer.Argument(metavar="BASE", help="The checkpoint that the patch is for.")]
PatchesArgument = Annotated[
    list[Path], typer.Argument(metavar="PATCH...", help="Patch files, in the order in which they were made.")
]


def export(
    *,
    base: BaseArgument,
    patched: Annotated[Path, typer.Argument(metavar="PATCHED", help="The patched checkpoint.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The patch file, such as fix.safetensors.")
    ],
    compression: Annotated[
        CompressionName,
        typer.Option("--compression", metavar="NAME", help="none or zstd; zstd is smaller and slower."),
    ] = CompressionName.none,
    printing: Printing,
) -> None:
    """Write a patch file that turns BASE into PATCHED: the new values only, with a bitmask per changed tensor.

    Files without weights, such as the record, are stored whole. The metadata contains digests of both checkpoints.
    """
    import vkdsurgeon

    printing.begin("comparing")
    _show(vkdsurgeon.export_patch(base, patched, output, compression=compression.value), printing)


def apply(
    *,
    base: BaseArgument,
    patches: PatchesArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The new checkpoint: a new or empty directory.")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Change BASE itself. If interrupted, run the same command again."),
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Allow links that point outside BASE; copy their targets.")
    ] = False,
    printing: Printing,
) -> None:
    """Apply patch files to BASE. The result is bit-identical to the checkpoint that was exported.

    It is refused if BASE is another checkpoint, or if the patches do not follow each other. Memory use is about one
    tensor.
    """
    import vkdsurgeon
    from vkdsurgeon.errors import UserError

    if (output is None) == (not in_place):
        raise UserError(
            "either -o or --in-place is required", where="-o OUT or --in-place", expected="one, and not both"
        )
    printing.begin("applying")
    _show(vkdsurgeon.patch_checkpoint(base, patches, output, follow_links=follow_links), printing)


def verify(
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint directory.")],
    patches: PatchesArgument,
    printing: Printing,
) -> None:
    """Check that patch files are intact, and whether MODEL is their base, their result, or neither.

    The status is 3 for neither, and for a model in which an in-place patch was interrupted. All files are read
    completely.
    """
    from vkdsurgeon.errors import GateFailed
    from vkdsurgeon.files.hub import model_path
    from vkdsurgeon.patch.state import verify_patches

    printing.begin("reading")
    result = verify_patches(model_path(model), patches)
    _show(result, printing)
    if result.state not in ("base", "result"):
        told = "an in-place patch was interrupted in it" if result.state == "begun" else ", ".join(result.differing[:3])
        raise GateFailed([f"{model} is neither the base nor the result of these patches: {told or 'other weights'}"])


def info(*, patches: PatchesArgument, printing: Printing) -> None:
    """Show the metadata of patch files: the base, the result, and how much changes."""
    from vkdsurgeon.patch.state import describe_patches

    _show(describe_patches(patches), printing)


def _show(result: PatchResult, printing: Printing) -> None:
    from vkdsurgeon_cli.tables import pairs

    output = printing.sink
    for warning in result.warnings:
        output.warn(warning)
    output.document(result.model_dump(mode="json"), lambda: pairs(_rows(result), output.columns), kept=result.out)


def _rows(result: PatchResult) -> list[tuple[str, object]]:
    share = f" ({result.bytes / result.model_bytes:.2%} of the checkpoint)" if result.model_bytes else ""
    rows: list[tuple[str, object]] = [
        ("patch", f"{', '.join(result.patches)}: {result.bytes:,} bytes{share}, {', '.join(result.compression)}"),
        ("changes", f"{result.elements:,} values in {result.tensors} tensors"),
        ("whole files", ", ".join(result.files) or "none"),
        ("base weights", result.base_weights_digest),
        ("result weights", result.result_weights_digest),
    ]
    if result.removed:
        rows.append(("removed files", ", ".join(result.removed)))
    if result.state is not None:
        rows.append(("model", f"{result.out or result.model}: {result.state}"))
    if result.differing and result.state == "other":
        rows.append(("differing", ", ".join(result.differing)))
    if result.action == "export":
        rows.append(("written", result.out))
    return rows


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Patch files with the changed values only: export, apply, verify, show.",
        short_help="Patch files, which hold the changed values only.",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings=SETTINGS,
    )
    add_command(
        group,
        "export",
        export,
        "patch export model/ patched/ -o fix.safetensors",
        "patch export model/ patched/ -o fix.safetensors --compression zstd",
        summary="Write a patch file that turns one checkpoint into another.",
    )
    add_command(
        group,
        "apply",
        apply,
        "patch apply model/ fix.safetensors -o patched/",
        "patch apply model/ first.safetensors second.safetensors -o patched/",
        "patch apply model/ fix.safetensors --in-place",
    )
    add_command(
        group,
        "verify",
        verify,
        "patch verify patched/ fix.safetensors",
        summary="Check patch files, and whether a model is their base or result.",
    )
    add_command(
        group,
        "info",
        info,
        "patch info fix.safetensors --json",
        summary="Show what is in patch files.",
    )
    app.add_typer(group, name="patch")
