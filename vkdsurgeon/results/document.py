"""The base of documents that are written and read back as a whole."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from vkdsurgeon.results.envelope import enveloped, opened


class Document(BaseModel):
    """A result with `kind` and `schema_version`, written in its envelope; documents without one are read, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _open(cls, found: Any) -> Any:
        return opened(found) if isinstance(found, dict) else found

    @model_serializer(mode="wrap")
    def _close(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("kind", "schema_version")}
        return enveloped({**own, **inner(self)})
