"""Looking at checkpoints: what they consist of, and how two of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vkdsurgeon.api.arguments import model_of
from vkdsurgeon.api.names import PathLike

if TYPE_CHECKING:
    from vkdsurgeon.data.modality import Modality
    from vkdsurgeon.results.difference import DiffResult
    from vkdsurgeon.results.inspection import InspectResult


def inspect(
    model: PathLike,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
) -> InspectResult:
    """Show how a checkpoint is split into tower, projector and language model, with its layers and files.

        [(part.part, part.parameters) for part in inspect("model/").parts]

    Only the headers of the weight files are read, and the values of tower and projector where these are F64.

    Args:
        model: A Hugging Face checkpoint directory.
        tower: Module path of the tower; needed only if the wrong one is found.
        projector: Module paths of the projector; needed only if the wrong ones are found.
        modality: Whether the tower is the one for images or the one for audio.

    Raises:
        UserError: The directory is not a checkpoint, or the checkpoint cannot be split.
    """
    from vkdsurgeon.model.inspection import inspect_checkpoint

    return inspect_checkpoint(model_of(model), tower=tower, projector=projector, modality=modality)


def diff(
    base: PathLike,
    patched: PathLike,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
    digests: bool = True,
) -> DiffResult:
    """Compare two checkpoints byte by byte.

        diff("model/", "patched/").language_identical

    Args:
        base: The original checkpoint.
        patched: The checkpoint to compare with it.
        tower: Same as in `inspect`.
        projector: Same as in `inspect`.
        modality: Same as in `inspect`.
        digests: Also compute the SHA-256 digest of the weights of both. A report needs the digests; they cost one more
            read of both checkpoints.

    Raises:
        UserError: One of the directories is not a checkpoint.
    """
    from vkdsurgeon.checkpoint.difference import describe_difference

    return describe_difference(
        model_of(base), model_of(patched), tower=tower, projector=projector, modality=modality, digests=digests
    )
