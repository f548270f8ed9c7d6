"""The record that travels with a patched checkpoint: what was done, never to whom.

No image, name, answer or path of the forget set appears here; sets are told by salted digests, which can be
checked by whoever holds the set and the record, and guessed by nobody who holds the record alone.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import vkdsurgeon
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.errors import UserError
from vkdsurgeon.results.envelope import enveloped
from vkdsurgeon.results.inspection import RunFacts

FILE_NAME = "vkdsurgeon.json"
SCHEMA = "vkdsurgeon/provenance/1"
_RECORD = re.compile(r"vkdsurgeon(?:\.(\d+))?\.json")


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


def set_digest(sample_digests: Iterable[str], salt: bytes) -> str:
    """Digest of a set of images, independent of their order and paths.

    Args:
        sample_digests: SHA-256 of each image's bytes, in hex.
        salt: Stored beside the digest.

    Returns:
        HMAC-SHA-256 in hex.
    """
    return hmac.new(salt, "\n".join(sorted(sample_digests)).encode(), hashlib.sha256).hexdigest()


def provenance_record(facts: Mapping[str, Any]) -> bytes:
    """The record as the bytes of `vkdsurgeon.json`; it holds no time, so equal runs give equal bytes."""
    record = enveloped({"schema": SCHEMA, **facts, "versions": versions()})
    return (json.dumps(record, indent=2, sort_keys=False) + "\n").encode()


def free_record_name(inventory: Inventory) -> str:
    """A checkpoint may be operated on more than once; every operation leaves a record of its own."""
    # A directory takes a name too, and some file systems do not tell small letters from capitals.
    taken = {path.casefold() for path in (*(f.path for f in inventory.files), *(d for d, _ in inventory.directories))}
    names = itertools.chain(
        (FILE_NAME,), (FILE_NAME.replace(".json", f".{number}.json") for number in itertools.count(2))
    )
    return next(name for name in names if name not in taken)


def record_names(inventory: Inventory) -> list[str]:
    """The records of runs that lie in a checkpoint, in the order of the runs."""
    found = [file.path for file in inventory.files if _RECORD.fullmatch(file.path)]
    return sorted(found, key=_run_number)


def _run_number(path: str) -> int:
    found = _RECORD.fullmatch(path)
    return int(found[1]) if found and found[1] else 1


def earlier_runs(inventory: Inventory) -> list[dict[str, Any]]:
    """The chain of runs whose outcome a checkpoint is, oldest first.

    Args:
        inventory: Inventory of the checkpoint.

    Returns:
        Name of each record, its SHA-256, and what it says of weights and request; None where it does not say it.
    """
    chain = []
    for path in record_names(inventory):
        content = (inventory.root / path).read_bytes()
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        record = found if isinstance(found, dict) else {}
        chain.append(
            {
                "record": path,
                "digest": hashlib.sha256(content).hexdigest(),
                "weights_digest": record.get("weights_digest"),
                "request": record.get("request"),
            }
        )
    return chain


def runs_of(inventory: Inventory) -> list[RunFacts]:
    """What the records in a checkpoint say of the runs behind it, oldest first; broken ones say nothing.

    Args:
        inventory: Inventory of the checkpoint.
    """
    found = []
    for path in record_names(inventory):
        content = (inventory.root / path).read_bytes()
        try:
            record = read_json(inventory.root / path)
        except UserError:
            record = {}
        base, request = record.get("base"), record.get("request")
        base = base if isinstance(base, dict) else {}
        request = request if isinstance(request, dict) else {}
        facts = {
            "method": record.get("method"),
            "weights_digest": record.get("weights_digest"),
            "base_weights_digest": base.get("weights_digest"),
            "request_id": request.get("id"),
            "request_date": request.get("date"),
        }
        told = {key: value if isinstance(value, str) else None for key, value in facts.items()}
        found.append(RunFacts(record=path, digest=hashlib.sha256(content).hexdigest(), **told))
    return found


def declared_language_changes(base: Inventory, patched: Inventory) -> dict[str, int]:
    """Which tensors of the language model may differ, by the records of decoder passes and other methods that only the
    patched one has.

    Args:
        base: The original.
        patched: A checkpoint that was made from it.

    Returns:
        Tensor name on disk -> most elements that may differ. Empty where nothing edits the language model.
    """
    known = {file.path for file in base.files}
    declared: dict[str, int] = {}
    for file in patched.files:
        if file.path in known or not _RECORD.fullmatch(file.path):
            continue
        try:
            record = read_json(patched.root / file.path)
        except UserError:
            # A broken record declares nothing.
            continue
        for part in ("decoder", "language"):
            edits = record.get(part)
            tensors = edits.get("tensors") if record.get("schema") == SCHEMA and isinstance(edits, dict) else None
            for name, count in tensors.items() if isinstance(tensors, dict) else ():
                if type(count) is int:
                    declared[name] = declared.get(name, 0) + count
    return declared
