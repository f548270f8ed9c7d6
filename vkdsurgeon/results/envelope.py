"""What every document says of itself first: `schema`, `kind` and the `version` of the tool that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vkdsurgeon import __version__

FIELDS = ("schema", "kind", "version")


def enveloped(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its envelope in front.

    Args:
        document: Has a `schema` such as `vkdsurgeon/diff/1`, or a `kind` and a `schema_version`.
    """
    schema = document.get("schema") or f"vkdsurgeon/{document['kind']}/{document['schema_version']}"
    kind = document.get("kind") or schema.split("/")[1]
    return {"schema": schema, "kind": kind, "version": __version__, **_without(document, FIELDS)}


def opened(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document that has `kind` and `schema_version` of its own, without what the envelope added."""
    return _without(document, ("schema", "version"))


def without_envelope(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document that is known by its `schema` alone, without its envelope."""
    return _without(document, FIELDS)


def _without(document: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in names}
