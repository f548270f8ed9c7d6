"""Patches held against a checkpoint, and what they say of themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.checkpoint.digest import checkpoint_digests
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.patch.base import differing, loaded_from
from vkdsurgeon.patch.in_place import begun_in
from vkdsurgeon.patch.read import open_stack
from vkdsurgeon.patch.summary import summary_of
from vkdsurgeon.results.patch import PatchResult


def describe_patches(paths: Sequence[Path]) -> PatchResult:
    """What patches say of themselves; their values are not read.

    Raises:
        UserError: One is no patch, or they do not follow on each other.
    """
    started = time.perf_counter()
    return summary_of("info", open_stack(paths), started=started)


def verify_patches(model: Path, paths: Sequence[Path]) -> PatchResult:
    """Read patches and a checkpoint whole, and tell whether it is their base, their result, or neither.

    Args:
        model: The checkpoint.
        paths: Patches in their order.

    Returns:
        The finding. `differing` names files that models are loaded from and that are not the result's; where the
        checkpoint is the base, there are none.

    Raises:
        UserError: A patch is damaged, they do not follow on each other, or the directory is no checkpoint.
    """
    started = time.perf_counter()
    patches = open_stack(paths)
    for patch in patches:
        patch.check()
    if begun_in(model):
        return summary_of("verify", patches, model=model, started=started, state="begun")
    inventory = take_inventory(model)
    found = checkpoint_digests(inventory)
    odd = {}
    for state, wanted in (("result", patches[-1].facts.result), ("base", patches[0].facts.base)):
        off = [path for path in differing(found.files, wanted.files) if path in wanted.files]
        # A base has no record of the run, and a copy of either may lack documentation.
        odd[state] = [path for path in off if loaded_from(path)]
        if not odd[state] and found.weights == wanted.weights_digest:
            return summary_of(
                "verify", patches, model=model, model_bytes=inventory.size, started=started, state=state,
                warnings=[f"{path}: not as in the {state}, and no model is loaded from it" for path in off],
            )  # fmt: skip
    nearest = min(odd.values(), key=len)
    return summary_of(
        "verify", patches, model=model, model_bytes=inventory.size, started=started, state="other", differing=nearest
    )
