"""How a checkpoint is split, from its headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vkdsurgeon.checkpoint.exact import check_exact
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.provenance import runs_of
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.model.image_features import image_features
from vkdsurgeon.model.layers import find_layers
from vkdsurgeon.model.preparers import check_preparer
from vkdsurgeon.results.inspection import FileFacts, InspectResult, PartFacts


def inspect_checkpoint(
    model: Path,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
) -> InspectResult:
    """Split a checkpoint into its parts. What `unlearn` would refuse is refused here.

    No tensor is read but those of tower and projector that are F64, whose values may be too exact for float32.

    Args:
        model: The checkpoint's directory.
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, if the wrong ones are found.
        modality: What the tower takes in.

    Raises:
        UserError: The directory is not a checkpoint, the checkpoint cannot be split, or its processor is unusable.
    """
    inventory = take_inventory(model)
    split = split_checkpoint(inventory, tower=tower, projector=projector, modality=modality)
    look = image_features(split.skeleton, split)
    check_preparer(split, look)
    check_exact(inventory, split.visual)
    held = Counter(entry.file for entry in inventory.tensors.values())
    return InspectResult(
        model=str(inventory.root),
        model_type=split.model_type,
        modality=modality,
        parts=[
            _part(inventory, "tower", [split.placement.tower], split.tower),
            _part(inventory, "projector", list(split.placement.projector), split.projector),
            _part(inventory, "language", [], split.language),
            _part(inventory, "other", [], split.other),
        ],
        layers=[*(f"layer.{index}" for index, _ in enumerate(find_layers(split))), *look.outputs],
        files=[FileFacts(path=file.path, bytes=file.size, tensors=held[file.path]) for file in inventory.files],
        bytes=inventory.size,
        warnings=[*inventory.warnings, *split.warnings],
        runs=runs_of(inventory),
    )


def _part(
    inventory: Inventory,
    name: Literal["tower", "projector", "language", "other"],
    modules: list[str],
    tensors: Sequence[str],
) -> PartFacts:
    entries = [inventory.tensors[tensor] for tensor in tensors]
    return PartFacts(
        part=name,
        modules=modules,
        tensors=len(entries),
        parameters=sum(entry.elements for entry in entries),
        bytes=sum(entry.nbytes for entry in entries),
        dtypes=sorted({entry.dtype for entry in entries}),
        files=sorted({entry.file for entry in entries}),
    )
