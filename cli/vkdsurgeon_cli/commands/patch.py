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
    patched: Annotated[Path, typer.Argument(metavar="PATCHED", help="What `unlearn` made of it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The patch file, such as fix.safetensors.")
    ],
    compression: Annotated[
        CompressionName,
        typer.Option("--compression", metavar="NAME", help="none or zstd; zstd is smaller and slower."),
    ] = CompressionName.none,
    printing: Printing,
) -> None:
    """Write what turns BASE into PATCHED: per changed tensor a bitmask and the new values, and nothing that was there.

    Files without weights, such as the record, come whole. Digests of both checkpoints are in the file's metadata.
    """
    import vkdsurgeon

    printing.begin("comparing")
    _show(vkdsurgeon.export_patch(base, patched, output, compression=compression.value), printing)


def apply(
    *,
    base: BaseArgument,
    patches: PatchesArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The new checkpoint: empty or not there yet.")
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Change BASE itself. A kill at any moment is mended by the same command."),
    ] = False,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Copy what links lead to that leave BASE.")] = (
        False
    ),
    printing: Printing,
) -> None:
    """Make the patched checkpoint from BASE, bit-identical to the one that was exported.

    Another base is refused, and so are patches that do not follow on each other. Memory stays within one tensor.
    """
    import vkdsurgeon
    from vkdsurgeon.errors import UserError

    if (output is None) == (not in_place):
        raise UserError("one of the two has to be given", where="-o OUT or --in-place", expected="one, and not both")
    printing.begin("applying")
    _show(vkdsurgeon.patch_checkpoint(base, patches, output, follow_links=follow_links), printing)


def verify(
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint directory.")],
    patches: PatchesArgument,
    printing: Printing,
) -> None:
    """Read patches and MODEL whole: are they intact, and is MODEL their base, their result, or neither?

    Neither is status 3, and so is a model in which an in-place patch was interrupted.
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
    """Show what patches say of themselves: for which weights, what comes out, how much changes."""
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
        help="Ship the changed values alone: write, apply, check and show patch files.",
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
    )
    add_command(
        group,
        "apply",
        apply,
        "patch apply model/ fix.safetensors -o patched/",
        "patch apply model/ first.safetensors second.safetensors -o patched/",
        "patch apply model/ fix.safetensors --in-place",
    )
    add_command(group, "verify", verify, "patch verify patched/ fix.safetensors")
    add_command(group, "info", info, "patch info fix.safetensors --json")
    app.add_typer(group, name="patch")
