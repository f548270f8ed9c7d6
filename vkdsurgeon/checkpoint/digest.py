"""Digests of a checkpoint: one for its weights, by which documents know each other, and one for each file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.files.copy import chunks


@dataclass(frozen=True)
class Digests:
    """What a checkpoint's bytes are.

    Attributes:
        weights: As `weights_digest`.
        files: Path relative to the checkpoint -> SHA-256 of the file, in hex.
    """

    weights: str
    files: Mapping[str, str]


class Digesting:
    """Digests that are made while files are read one after the other, in the inventory's order.

    Args:
        shards: The weight files.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = frozenset(shards)
        self._weights = hashlib.sha256()
        self._files: dict[str, Any] = {}

    def hashers(self, path: str) -> tuple[Any, ...]:
        """What has to take in the bytes of the next file.

        Args:
            path: The file, relative to the checkpoint.
        """
        own = self._files[path] = hashlib.sha256()
        if path not in self._shards:
            return (own,)
        self._weights.update(path.encode() + b"\0")
        return (own, self._weights)

    def read(self, path: str, source: Path) -> None:
        """Take in the bytes of the next file.

        Args:
            path: The file, relative to the checkpoint.
            source: Where it lies.
        """
        hashers = self.hashers(path)
        for data in chunks(source):
            for hasher in hashers:
                hasher.update(data)

    def done(self) -> Digests:
        """The digests of all files that were read."""
        return Digests(self._weights.hexdigest(), {path: own.hexdigest() for path, own in self._files.items()})


def checkpoint_digests(inventory: Inventory, root: Path | None = None, *, shards_only: bool = False) -> Digests:
    """Read every file of a checkpoint once.

    Args:
        inventory: Inventory of the checkpoint.
        root: A copy of it to read instead.
        shards_only: Read the weight files alone.
    """
    place = inventory.root if root is None else root
    shards = inventory.shards
    digesting = Digesting(shards)
    for path in shards if shards_only else [file.path for file in inventory.files]:
        digesting.read(path, place / path)
    return digesting.done()


def weights_digest(root: Path, shards: Sequence[str]) -> str:
    """SHA-256 over the weight files of a checkpoint, names included, in hex.

    Args:
        root: The checkpoint's directory.
        shards: Its weight files relative to `root`, in the inventory's order.
    """
    hasher = hashlib.sha256()
    for shard in shards:
        hasher.update(shard.encode() + b"\0")
        for data in chunks(root / shard):
            hasher.update(data)
    return hasher.hexdigest()


def weights_digest_of(root: Path) -> str:
    """`weights_digest` of a checkpoint directory.

    Raises:
        UserError: The directory is not a checkpoint.
    """
    return weights_digest(root, take_inventory(root).shards)
