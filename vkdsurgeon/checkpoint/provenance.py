"""The record that travels with a patched checkpoint: what was done, never to whom.

No picture, name, answer or path of the forget set appears here; sets are told by salted digests, which can be
checked by whoever holds the set and the record, and guessed by nobody who holds the record alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import vkdsurgeon

FILE_NAME = "vkdsurgeon.json"
SCHEMA = "vkdsurgeon/provenance/1"


def versions() -> dict[str, str]:
    """Versions of everything that decides what a run computes."""
    import numpy
    import PIL
    import safetensors
    import transformers

    return {
        "vkdsurgeon": vkdsurgeon.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
    }


def set_digest(picture_digests: Iterable[str], salt: bytes) -> str:
    """Digest of a set of pictures, independent of their order and paths.

    Args:
        picture_digests: SHA-256 of each picture's bytes, in hex.
        salt: Stored beside the digest.

    Returns:
        HMAC-SHA-256 in hex.
    """
    return hmac.new(salt, "\n".join(sorted(picture_digests)).encode(), hashlib.sha256).hexdigest()


def provenance_record(facts: Mapping[str, Any]) -> bytes:
    """The record as the bytes of `vkdsurgeon.json`; it holds no time, so equal runs give equal bytes."""
    record = {"schema": SCHEMA, **facts, "versions": versions()}
    return (json.dumps(record, indent=2, sort_keys=False) + "\n").encode()
