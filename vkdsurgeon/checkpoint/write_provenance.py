"""The record beside the patched weights: what every method tells of its sets, and the write that puts it there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.provenance import earlier_runs, free_record_name, provenance_record, set_digest
from vkdsurgeon.checkpoint.stage import CopyDigests, WriteReport, write_patched
from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.files.hub import hub_source


def salt_of(seed: int, changes: Mapping[str, Tensor]) -> bytes:
    """A salt that differs from run to run with what was learnt, and is the same for equal runs."""
    hasher = hashlib.sha256(str(seed).encode())
    for name in sorted(changes):
        hasher.update(raw_bytes(changes[name]))
    return hasher.digest()[:16]


def set_facts(sets: Mapping[str, Sequence[Sample]], salt: bytes) -> dict[str, dict[str, Any]]:
    """Counts and salted digests of sets of images; never who is on them."""
    return {
        name: {
            "pictures": len(samples),
            "subjects": len({sample.subject for sample in samples}),
            "digest": set_digest((sample.digest for sample in samples), salt),
        }
        for name, samples in sets.items()
    }


def write_recorded(
    inventory: Inventory,
    changes: Mapping[str, Tensor],
    out: Path,
    facts: Mapping[str, Any],
    *,
    drop_stale: bool = False,
    link_untouched: bool = False,
) -> WriteReport:
    """Write the patched checkpoint with its record.

    Args:
        inventory: Inventory of the original.
        changes: Name on disk -> new tensor.
        out: The directory to make.
        facts: What the record says; it gets the digests of base and output, the base's name and revision on the
            hub where it lies in the local cache, and the chain of earlier runs besides.
        drop_stale: Leave out files that may hold the same weights once more.
        link_untouched: As in `write_patched`; the record names the linked files.

    Raises:
        UserError: As `write_patched`.
        SurgeryError: As `write_patched`.
    """
    name = free_record_name(inventory)
    earlier = earlier_runs(inventory)
    source = hub_source(inventory.root)
    hub = {} if source is None else {"hub": source}
    if drop_stale:
        facts = {**facts, "left_out": list(inventory.stale)}
        inventory = inventory.without_stale()

    def record(found: CopyDigests) -> bytes:
        base, patched = found.base, found.patched
        changed = {path: told for path, told in patched.files.items() if told != base.files[path]}
        return provenance_record(
            {
                **facts,
                "weights_digest": patched.weights,
                "base": {"weights_digest": base.weights, "files": dict(base.files), **hub},
                "changed_files": changed,
                "earlier_runs": earlier,
                **({"linked_files": list(found.linked)} if found.linked else {}),
            }
        )

    return write_patched(inventory, changes, out, extra_files={name: record}, link_untouched=link_untouched)
