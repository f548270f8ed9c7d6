"""Patches as the document that the commands print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vkdsurgeon.patch.read import PatchFile
from vkdsurgeon.results.patch import PatchResult


def summary_of(
    action: Literal["export", "apply", "verify", "info"],
    patches: Sequence[PatchFile],
    *,
    started: float,
    model: Path | None = None,
    out: Path | None = None,
    model_bytes: int | None = None,
    **found: Any,
) -> PatchResult:
    """The document about patches.

    Args:
        action: What was done.
        patches: In their order, at least one.
        started: `time.perf_counter` at the beginning.
        model: The checkpoint.
        out: What was written.
        model_bytes: Size of the checkpoint.
        found: Further fields of the document.
    """
    facts = [patch.facts for patch in patches]
    return PatchResult(
        action=action,
        patches=[str(patch.path) for patch in patches],
        bytes=sum(patch.size for patch in patches),
        model=None if model is None else str(model),
        out=None if out is None else str(out),
        model_bytes=model_bytes,
        base_weights_digest=facts[0].base.weights_digest,
        result_weights_digest=facts[-1].result.weights_digest,
        tensors=len({name for each in facts for name in each.tensors}),
        elements=sum(tensor.changed for each in facts for tensor in each.tensors.values()),
        files=sorted({path for each in facts for path in each.files}),
        removed=sorted({path for each in facts for path in each.removed}),
        compression=[each.compression for each in facts],
        seconds=round(time.perf_counter() - started, 3),
        **found,
    )
