"""What the record beside the patched weights says of a method other than feature-mode VKD."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vkdsurgeon.checkpoint.provenance import set_digest
from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.surgery import raw_bytes


def salt_of(seed: int, changes: Mapping[str, Tensor]) -> bytes:
    """A salt that differs from run to run with what was learnt, and is the same for equal runs."""
    hasher = hashlib.sha256(str(seed).encode())
    for name in sorted(changes):
        hasher.update(raw_bytes(changes[name]))
    return hasher.digest()[:16]


def set_facts(sets: Mapping[str, Sequence[Picture]], salt: bytes) -> dict[str, dict[str, Any]]:
    """Counts and salted digests of sets of pictures; never who is on them."""
    return {
        name: {
            "pictures": len(pictures),
            "subjects": len({picture.subject for picture in pictures}),
            "digest": set_digest((picture.digest for picture in pictures), salt),
        }
        for name, pictures in sets.items()
    }


def language_facts(selected: Mapping[str, int], language: Sequence[str]) -> dict[str, Any] | None:
    """Which tensors of the language model may differ and by how many elements, for `diff --only-declared`.

    Args:
        selected: Tensor on disk -> selected elements.
        language: Names on disk of the language side.

    Returns:
        None where none of them may.
    """
    inside = {name: count for name, count in sorted(selected.items()) if name in set(language)}
    return {"selected_elements": sum(inside.values()), "tensors": inside} if inside else None


def layer_facts(
    selected: Mapping[str, int], sizes: Mapping[str, int], layer_of: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Elements and selected elements by layer.

    Args:
        selected: Parameter -> selected elements.
        sizes: Parameter -> elements, of all in scope, in the model's order.
        layer_of: Parameter -> its layer.
    """
    shares: dict[str, list[int]] = {}
    for name, elements in sizes.items():
        share = shares.setdefault(layer_of[name], [0, 0])
        share[0] += elements
        share[1] += selected.get(name, 0)
    return [{"layer": layer, "elements": all_, "selected": some} for layer, (all_, some) in shares.items()]
