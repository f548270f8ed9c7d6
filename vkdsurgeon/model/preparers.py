"""Which processor prepares what for a tower."""

from __future__ import annotations

from contextlib import suppress

import torch

from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import brief
from vkdsurgeon.model.clips import ClipPreparer
from vkdsurgeon.model.image_features import ImageFeatures
from vkdsurgeon.model.images import Preparer

_PREPARERS: dict[Modality, type[Preparer]] = {"image": Preparer, "audio": ClipPreparer}


def preparer_for(split: Split, look: ImageFeatures) -> Preparer:
    """The processor of a checkpoint for its tower.

    Args:
        split: Split of the checkpoint.
        look: What the model makes of the processor's tensors.

    Raises:
        UserError: The processor's config is missing or broken, or needs a package that is not installed.
    """
    return _PREPARERS[split.modality](split, look)


def check_preparer(split: Split, look: ImageFeatures) -> None:
    """Check on a blank image or clip that it can be prepared, and that the tower takes it. Needs no weights.

    Args:
        split: Split of the checkpoint; its skeleton is on `meta`.
        look: What the model makes of the processor's tensors.

    Raises:
        UserError: As `preparer_for`; or the processor makes what the tower cannot take.
    """
    preparer = preparer_for(split, look)
    inputs = {
        name: value.to("meta", torch.float32) if value.is_floating_point() else value
        for name, value in preparer(preparer.blank()).inputs.items()
    }
    # Towers whose way depends on values cannot go it on `meta`, which tells nothing of the checkpoint.
    with torch.no_grad(), suppress(RuntimeError, NotImplementedError, TypeError, AttributeError):
        try:
            look(inputs)
        except (ValueError, IndexError) as error:
            raise unfit(split, error) from error


def unfit(split: Split, error: BaseException) -> UserError:
    """The error where a tower refuses what its processor makes."""
    called = _PREPARERS[split.modality].processor_name
    return UserError(
        f"tower and projector cannot take what the {called} makes: {brief(error)}",
        where=split.root,
        expected=f"config.json, the {called}'s config and the split to fit each other",
        remedy="restore the two files from the original checkpoint; check `tower` and `projector` with `inspect`",
    )
