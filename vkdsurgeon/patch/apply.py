"""A base and patches become a new checkpoint, bit-identical to what the patches were exported from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vkdsurgeon.checkpoint.digest import Digests
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.output import check_links, output_claimed
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES, read_bytes
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.patch.base import check_base, check_described, differing, loaded_from, warned_of
from vkdsurgeon.patch.read import PatchFile, open_stack
from vkdsurgeon.patch.summary import summary_of
from vkdsurgeon.results.patch import PatchResult


class PatchedTensors(Mapping[str, torch.Tensor]):
    """Name on disk -> the tensor after all patches; made when it is asked for, and not kept.

    Args:
        inventory: Inventory of the base.
        patches: In their order.
    """

    def __init__(self, inventory: Inventory, patches: Sequence[PatchFile]) -> None:
        self._inventory, self._patches = inventory, patches
        self._names = sorted({name for patch in patches for name in patch.facts.tensors})

    def __getitem__(self, name: str) -> torch.Tensor:
        data: bytes | bytearray = read_bytes(self._inventory, name)
        for patch in self._patches:
            if name in patch.facts.tensors:
                data = bytearray(patch.change(name).laid_over(data).reshape(-1).data)
        entry = self._inventory.tensors[name]
        return torch.frombuffer(data, dtype=TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def apply_patches(base: Path, paths: Sequence[Path], out: Path, *, follow_links: bool = False) -> PatchResult:
    """Write a copy of a checkpoint with patches applied.

    The copy appears complete and verified, or not at all. Memory is bounded by the largest changed tensor.

    Args:
        base: The checkpoint that the first patch is for; it is never written to.
        paths: Patches in the order in which they were made.
        out: The directory to make.
        follow_links: Copy what links lead to that leave the base.

    Returns:
        What was done. Files that no model is loaded from may differ where the base's own did; warnings name them.

    Raises:
        UserError: The base is another one, the patches are damaged or do not follow on each other, or the output cannot
            be written.
        SurgeryError: Writing failed, or the result is not what the patches promise; nothing is left behind.
    """
    started = time.perf_counter()
    patches = open_stack(paths)
    inventory = take_inventory(base)
    check_links(inventory, follow_links)
    check_described(inventory, patches)
    for patch in patches:
        patch.check()
    files = overlaid(patches)
    removed = gone(patches)
    # What comes whole takes the place of the base's own.
    left = replace(inventory, files=tuple(f for f in inventory.files if f.path not in {*files, *removed}))
    brought = {path: patch.file(path) for path, patch in files.items()}
    wanted = patches[-1].facts.result
    seen: dict[str, str] = {}

    def check_result(found: Digests) -> None:
        if found.weights != wanted.weights_digest:
            raise SurgeryError(f"{out}: the weights that came out are not those of the patch; nothing was written")
        seen.update(found.files)

    with output_claimed(left, out, brought):
        write_patched(
            left,
            PatchedTensors(inventory, patches),
            out,
            extra_files=brought,
            check_base=lambda found: check_base(inventory, _with_rest(inventory, found, patches[0]), patches[0]),
            check_patched=check_result,
        )
    seen.update({path: hashlib.sha256(content).hexdigest() for path, content in brought.items()})
    odd = differing(seen, wanted.files)
    return summary_of(
        "apply",
        patches,
        model=base,
        out=out,
        model_bytes=inventory.size,
        started=started,
        state="result",
        differing=odd,
        warnings=warned_of(path for path in odd if not loaded_from(path)) + _extra(odd, seen, wanted.files),
    )


def overlaid(patches: Sequence[PatchFile]) -> dict[str, PatchFile]:
    """Path of each file that comes whole -> the patch whose content counts."""
    found: dict[str, PatchFile] = {}
    for patch in patches:
        found.update(dict.fromkeys(patch.facts.files, patch))
        for path in patch.facts.removed:
            found.pop(path, None)
    return found


def gone(patches: Sequence[PatchFile]) -> set[str]:
    """Files of the base that are not there after all patches."""
    found: set[str] = set()
    for patch in patches:
        found |= set(patch.facts.removed)
        found -= set(patch.facts.files)
    return found


def _with_rest(inventory: Inventory, found: Digests, first: PatchFile) -> Digests:
    """The digests of a copy, with those of files that were not copied because others take their place."""
    there = {file.path for file in inventory.files}
    rest = {path: told for path, told in first.facts.base.files.items() if path in there and path not in found.files}
    return Digests(found.weights, {**rest, **found.files})


def _extra(odd: Sequence[str], seen: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    more = [path for path in odd if path in seen and path not in wanted and loaded_from(path)]
    return [f"the base holds files that the patch does not know, such as {more[0]}: they were copied"] if more else []
