"""One number for the weights of a checkpoint, by which documents about it know each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 4 << 20


def weights_digest(root: Path, shards: Sequence[str]) -> str:
    """SHA-256 over the weight files of a checkpoint, names included, in hex.

    Args:
        root: The checkpoint's directory.
        shards: Its weight files relative to `root`, in the inventory's order.
    """
    hasher = hashlib.sha256()
    for shard in shards:
        hasher.update(shard.encode() + b"\0")
        with open(root / shard, "rb") as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
    return hasher.hexdigest()
