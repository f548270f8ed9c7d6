"""Is this checkpoint the one that a patch is for? Told by the digest of every file that a model is loaded from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vkdsurgeon.checkpoint.digest import Digests
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.patch.read import PatchFile

# What a model is loaded from beside its weights; documentation and images decide nothing.
_SETTINGS = (".json", ".jinja", ".txt", ".model", ".py")


def check_described(inventory: Inventory, patches: Sequence[PatchFile]) -> None:
    """Refuse another base by what costs nothing to read: tensors, and files without weights.

    Args:
        inventory: Inventory of the checkpoint.
        patches: In their order.

    Raises:
        UserError: The checkpoint is not that base.
    """
    for patch in patches:
        for name, tensor in patch.facts.tensors.items():
            entry = inventory.tensors.get(name)
            if entry is None or (entry.file, entry.dtype, list(entry.shape)) != (
                tensor.file, tensor.dtype, tensor.shape,
            ):  # fmt: skip
                found = "absent" if entry is None else f"{entry.dtype} {list(entry.shape)} in {entry.file}"
                raise _another(inventory.root, name, found, patch, inventory)
    first = patches[0]
    settings = {
        file.path: digest(inventory.root / file.path)
        for file in inventory.files
        if file.path not in inventory.shards and file.path in first.facts.base.files and loaded_from(file.path)
    }
    check_files(inventory, settings, first)


def check_files(inventory: Inventory, found: Mapping[str, str], patch: PatchFile) -> None:
    """Refuse files that are not the base's.

    Args:
        inventory: Inventory of the checkpoint.
        found: Path -> SHA-256; what the base does not know passes, and so does documentation.
        patch: The first patch.

    Raises:
        UserError: A file that models are loaded from is another one.
    """
    base = patch.facts.base.files
    for path, seen in found.items():
        if path in base and base[path] != seen and loaded_from(path):
            raise _another(inventory.root, path, seen, patch, inventory)


def check_base(inventory: Inventory, found: Digests, patch: PatchFile) -> None:
    """Refuse another base.

    Args:
        inventory: Inventory of the checkpoint.
        found: Its digests.
        patch: The first patch.

    Raises:
        UserError: The checkpoint is not that base, or files are missing.
    """
    check_files(inventory, found.files, patch)
    if found.weights != patch.facts.base.weights_digest:
        raise _another(inventory.root, "the weights", found.weights, patch, inventory)
    missing = [path for path in patch.facts.base.files if path not in found.files and loaded_from(path)]
    if missing:
        raise _another(inventory.root, missing[0], "absent", patch, inventory)


def differing(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Paths that are missing, added or others than they should be, sorted.

    Args:
        found: Path -> SHA-256.
        wanted: Likewise.
    """
    return sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))


def warned_of(paths: Iterable[str]) -> list[str]:
    """What to say of files that are not as the patch's result has them."""
    names = list(paths)
    if not names:
        return []
    return [
        f"{len(names)} file(s) that no model is loaded from are not as in the exported result, such as {names[0]}: the "
        "base's own had been other ones, or more; weights and settings are bit-identical"
    ]


def loaded_from(path: str) -> bool:
    """Whether a model is loaded from a file of this name."""
    return path.endswith((".safetensors", *_SETTINGS))


def _another(root: Path, what: str, found: str, patch: PatchFile, inventory: Inventory) -> UserError:
    result = patch.facts.result.files
    at_result = what in result and result[what] == found and result[what] != patch.facts.base.files.get(what)
    if at_result or (what == "the weights" and found == patch.facts.result.weights_digest):
        return UserError("the patch is applied to this checkpoint already", where=root / what, value=found)
    return UserError(
        f"{inventory.root} is not the base of this patch: {what} is another",
        where=patch.path,
        value=found,
        expected=f"weights {patch.facts.base.weights_digest}, and the settings that came with them",
        remedy="get the base that the patch was exported for; `vkdsurgeon patch info` names its digests",
    )
