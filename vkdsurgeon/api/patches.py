"""Patch files: writing one, and applying them on disk or to a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vkdsurgeon.api.arguments import model_of, paths_of
from vkdsurgeon.api.names import PathLike

if TYPE_CHECKING:
    from torch import nn

    from vkdsurgeon.results.patch import PatchResult


def export_patch(
    base: PathLike, patched: PathLike, out: PathLike, *, compression: Literal["none", "zstd"] = "none"
) -> PatchResult:
    """Write a patch file that turns one checkpoint into another. It holds the new values only, never the old ones.

        export_patch("model/", "patched/", "fix.safetensors")

    Args:
        base: The original checkpoint.
        patched: A checkpoint with the same tensors at the same places, such as the output of `unlearn`.
        out: The file to write. An existing file is not replaced.
        compression: `zstd` makes the file smaller and slower to write.

    Raises:
        UserError: The checkpoints differ in more than values, or the output exists or cannot be written.
        SurgeryError: The disk is full, or a checkpoint changed while it was read.
    """
    from vkdsurgeon.patch.export import export_patch as export

    return export(model_of(base), model_of(patched), Path(out), compression=compression)


def patch_checkpoint(
    base: PathLike, patches: PathLike | Sequence[PathLike], out: PathLike | None, *, follow_links: bool = False
) -> PatchResult:
    """Apply patch files to a checkpoint on disk. The result is bit-identical to the checkpoint that was exported.

        patch_checkpoint("model/", "fix.safetensors", "patched/")

    Args:
        base: The checkpoint that the first patch was made from.
        patches: One patch, or several in the order in which they were made.
        out: The directory to create. None changes `base` in place; if that is interrupted, call again to finish it.
        follow_links: Same as in `unlearn`. Only used with `out`.

    Raises:
        UserError: `base` is not the base of the patch, a patch is damaged, the patches do not follow each other, or the
            output cannot be written.
        SurgeryError: Writing failed.
    """
    from vkdsurgeon.patch.apply import apply_patches
    from vkdsurgeon.patch.in_place import apply_in_place

    paths = paths_of(patches)
    if out is None:
        return apply_in_place(model_of(base), paths)
    return apply_patches(model_of(base), paths, Path(out), follow_links=follow_links)


def apply_patch(model: nn.Module, patches: PathLike | Sequence[PathLike]) -> int:
    """Write the new values of patch files into a transformers model in memory.

        model = AutoModelForImageTextToText.from_pretrained("model/", dtype="auto")
        apply_patch(model, "fix.safetensors")

    Args:
        model: A model loaded from the base, in the checkpoint's dtype or a wider one, on any device. It is changed in
            place.
        patches: Same as in `patch_checkpoint`.

    Returns:
        How many elements were changed.

    Raises:
        UserError: The model comes from another base, was changed after loading, or holds a tensor in another form than
            on disk. In this case the model is not changed.
    """
    from vkdsurgeon.patch.loaded import apply_to_loaded

    return apply_to_loaded(model, paths_of(patches))
