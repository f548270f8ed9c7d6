"""The document of `vkdsurgeon diff`: the part that is read back; what else it holds may change without notice."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TensorRecord(BaseModel, frozen=True):
    """One tensor that differs."""

    part: str
    elements: int
    changed: int


class DiffDocument(BaseModel, frozen=True):
    """The document of `vkdsurgeon diff --json`."""

    schema_: Literal["vkdsurgeon/diff/1"] = Field(alias="schema")
    base_weights_digest: str
    patched_weights_digest: str
    identical: bool
    language_identical: bool | None
    tensors_compared: int
    tensors_changed: int
    elements_compared: int
    elements_changed: int
    changed: list[TensorRecord]
    tensors_missing: list[str]
    tensors_added: list[str]
    files: dict[str, str]
    undeclared: list[str] | None = None
