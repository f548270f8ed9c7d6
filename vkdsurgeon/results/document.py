"""The base of documents that are written and read back as a whole."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from vkdsurgeon.results.envelope import enveloped, opened, without_envelope


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


class SchemaDocument(BaseModel):
    """A result that is known by its `SCHEMA` alone, such as `vkdsurgeon/diff/1`; written in its envelope."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    SCHEMA: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _open(cls, found: Any) -> Any:
        return without_envelope(found) if isinstance(found, dict) else found

    @model_serializer(mode="wrap")
    def _close(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return enveloped({"schema": self.SCHEMA, **inner(self)})


class RunDocument(BaseModel):
    """The result of a run, with the objects that the run worked with; what is written of it is `as_dict`.

    `model_dump` and `model_dump_json` give the document in its envelope, so a run's tables and its JSON come from one
    object.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def as_dict(self) -> dict[str, Any]:
        """The document, with its `schema`."""
        raise NotImplementedError

    @model_serializer(mode="plain")
    def _document(self) -> dict[str, Any]:
        return enveloped(self.as_dict())
