"""Which processor prepares what for a tower."""

from __future__ import annotations

from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.data.modality import Modality
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
    """Check that images or clips can be prepared for the tower, on a blank one; see `preparer_for`."""
    preparer = preparer_for(split, look)
    preparer(preparer.blank())
