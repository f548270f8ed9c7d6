"""Patches applied to a checkpoint where it lies, which a kill at any moment cannot spoil.

New values do not depend on old ones, so writing them again is harmless: once the base is known to be the right one, a
journal in the directory says so, and whoever runs the same command again finishes the work. There is no way back, as
neither patch nor journal holds a value that was replaced.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vkdsurgeon.checkpoint.digest import checkpoint_digests
from vkdsurgeon.checkpoint.inventory import IN_PLACE_JOURNAL, Inventory, take_inventory
from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files.copy import sync, write_at
from vkdsurgeon.files.directories import alone_in
from vkdsurgeon.patch.apply import PatchedTensors, gone, overlaid
from vkdsurgeon.patch.base import check_base, check_described, differing, loaded_from, warned_of
from vkdsurgeon.patch.read import PatchFile, open_stack
from vkdsurgeon.patch.summary import summary_of
from vkdsurgeon.results.patch import PatchResult

_SCHEMA = "vkdsurgeon/patching/1"
_DONE = "the patches were applied here before: there was nothing to do"


def begun_in(model: Path) -> bool:
    """Whether an in-place patch was begun in a directory and not finished."""
    return (model / IN_PLACE_JOURNAL).exists()


def apply_in_place(model: Path, paths: Sequence[Path]) -> PatchResult:
    """Change a checkpoint where it lies.

    Killed at any moment, it is finished by the same call. Other commands refuse the directory until then.

    Args:
        model: The checkpoint that the first patch is for.
        paths: Patches in the order in which they were made.

    Returns:
        What was done.

    Raises:
        UserError: The checkpoint is another one, is shared by links, or cannot be written; or the patches are damaged,
            do not follow on each other, or are not those that were begun with. Nothing was changed.
        SurgeryError: Writing failed under way; the same call goes on.
    """
    started = time.perf_counter()
    patches = open_stack(paths)
    for patch in patches:
        patch.check()
    if not model.is_dir():
        raise UserError("no such directory", where=model, expected="a Hugging Face checkpoint directory")
    with alone_in(model, "patch apply --in-place"):
        if begun_in(model):
            warnings = _go_on(model, patches)
        elif _is_result(model, patches):
            return summary_of(
                "apply", patches, model=model, out=model, started=started, state="result", warnings=[_DONE]
            )
        else:
            warnings = []
            _begin(model, patches)
        try:
            inventory = take_inventory(model, patching=True)
            _write(inventory, patches)
            after = take_inventory(model, patching=True)
            found = checkpoint_digests(after)
            wanted = patches[-1].facts.result
            ours = {path: told for path, told in found.files.items() if path != IN_PLACE_JOURNAL}
            odd = differing(ours, wanted.files)
            if found.weights != wanted.weights_digest or any(loaded_from(p) and p in wanted.files for p in odd):
                raise SurgeryError(
                    f"{model}: what came out is not the patch's result; something else wrote to it meanwhile. Get the "
                    "base again"
                )
            (model / IN_PLACE_JOURNAL).unlink()
            sync(model)
        except OSError as error:
            raise SurgeryError(
                f"{error.filename or model}: {error.strerror or error}; it is changed in part: make room or "
                "mend the disk, and run the same command again"
            ) from error
    return summary_of(
        "apply", patches, model=model, out=model, model_bytes=after.size, started=started, state="result",
        differing=odd, warnings=[*warnings, *warned_of(path for path in odd if not loaded_from(path))],
    )  # fmt: skip


def _is_result(model: Path, patches: Sequence[PatchFile]) -> bool:
    """Whether there is nothing to do, as after a kill that came too late."""
    wanted = patches[-1].facts.result
    inventory = take_inventory(model)
    # Hours of reading are for who may gain by it: a base has other settings or none of the result's new files.
    there = {file.path for file in inventory.files}
    if any(path not in there for path in wanted.files if loaded_from(path)):
        return False
    found = checkpoint_digests(inventory)
    return found.weights == wanted.weights_digest and not any(
        loaded_from(path) and path in wanted.files for path in differing(found.files, wanted.files)
    )


def _begin(model: Path, patches: Sequence[PatchFile]) -> None:
    inventory = take_inventory(model)
    _refuse_shared(inventory, patches)
    check_described(inventory, patches)
    check_base(inventory, checkpoint_digests(inventory), patches[0])
    journal = {
        "schema": _SCHEMA,
        "patches": [patch.digest() for patch in patches],
        "result_weights_digest": patches[-1].facts.result.weights_digest,
    }
    _replace(model / IN_PLACE_JOURNAL, (json.dumps(journal, indent=2) + "\n").encode())
    sync(model)


def _go_on(model: Path, patches: Sequence[PatchFile]) -> list[str]:
    path = model / IN_PLACE_JOURNAL
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        begun = found["patches"] if found["schema"] == _SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        begun = None
    if begun != [patch.digest() for patch in patches]:
        raise UserError(
            "an in-place patch was interrupted here, and these are not its patches",
            where=path,
            value=[patch.digest() for patch in patches],
            expected=f"patches with the digests {begun}",
            remedy="run the interrupted command again, with the same patches in the same order",
        )
    return ["an interrupted run was finished: its base had been checked before it began"]


def _refuse_shared(inventory: Inventory, patches: Sequence[PatchFile]) -> None:
    """Refuse files that other directories share, such as the snapshots of a download cache."""
    touched = {tensor.file for patch in patches for tensor in patch.facts.tensors.values()}
    for path in sorted({*touched, *overlaid(patches), *gone(patches)}):
        place = inventory.root / path
        linked = any(part.is_symlink() for part in (place, *list(place.parents)[: len(Path(path).parts) - 1]))
        if linked or (place.is_file() and place.stat().st_nlink > 1):
            raise UserError(
                "the file is a link, or shared with another directory, which would change with it",
                where=place,
                expected="files of this directory alone",
                remedy="copy the checkpoint, or apply with -o OUT",
            )
        if place.exists() and not os.access(place, os.W_OK):
            raise UserError("no permission to write here", where=place)


def _write(inventory: Inventory, patches: Sequence[PatchFile]) -> None:
    changed = PatchedTensors(inventory, patches)
    touched = {inventory.tensors[name].file for name in changed}
    for shard in sorted(touched):
        descriptor = os.open(inventory.root / shard, os.O_RDWR)
        try:
            for name in changed:
                entry = inventory.tensors[name]
                if entry.file == shard:
                    value = changed[name]
                    write_at(descriptor, raw_bytes(value), entry.begin)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    # The record and other files come last, so that weights never lie beside a record of what they are not yet.
    for path, patch in sorted(overlaid(patches).items()):
        _replace(inventory.root / path, patch.file(path))
    for path in sorted(gone(patches)):
        with suppress(FileNotFoundError):
            (inventory.root / path).unlink()
    sync(inventory.root)


def _replace(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = place.stat().st_mode & 0o7777 if place.exists() else None
    # Always the same name, so that whoever goes on after a kill leaves nothing of it behind.
    part = place.with_name(f".{place.name}.vkdsurgeon-part")
    part.unlink(missing_ok=True)
    with part.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if mode is not None:
        part.chmod(mode)
    os.replace(part, place)
