"""The difference of two checkpoints as a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.results.difference import DiffResult, TensorDifference


def describe_difference(
    base: Path,
    patched: Path,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    modality: Modality = "image",
    digests: bool = True,
) -> DiffResult:
    """Compare two checkpoints byte by byte.

    Args:
        base: The original.
        patched: The other one.
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, if the wrong ones are found.
        modality: What the tower takes in.
        digests: Whether to name the weights of both by a digest, which reads them a second time.

    Raises:
        UserError: One of the two is no checkpoint.
    """
    found = diff_checkpoints(base, patched, tower=tower, projector=projector, modality=modality)
    return DiffResult(
        base=str(found.base),
        patched=str(found.patched),
        base_weights_digest=weights_digest_of(found.base) if digests else None,
        patched_weights_digest=weights_digest_of(found.patched) if digests else None,
        identical=found.identical,
        language_identical=found.language_identical,
        declared_by_decoder_pass=found.declared,
        undeclared=list(found.undeclared),
        headers_identical=found.headers_identical,
        tensors_compared=found.compared,
        tensors_changed=len(found.tensors),
        elements_compared=found.elements,
        elements_changed=found.elements_changed,
        changed=[
            TensorDifference(
                tensor=each.name, part=each.part, file=each.file, elements=each.elements, changed=each.changed
            )
            for each in found.tensors
        ],
        tensors_missing=list(found.missing),
        tensors_added=list(found.added),
        files=found.files,
        split_error=found.split_error,
    )
