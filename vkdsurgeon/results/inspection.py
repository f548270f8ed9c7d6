"""What a checkpoint consists of, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import SchemaDocument


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartFacts(_Facts):
    """One part of a checkpoint.

    Attributes:
        part: `tower`, `projector`, `language` (heads and other towers included), or `other`: tensors without a place in
            the model, which pass through untouched.
        modules: Module paths of tower and projector; empty for the other parts.
        tensors: Number of its tensors on disk.
        parameters: Number of their elements.
        bytes: What they take on disk.
        dtypes: As safetensors names them, such as `BF16`; sorted.
        files: Files that hold them, relative to the checkpoint; sorted.
    """

    part: Literal["tower", "projector", "language", "other"]
    modules: list[str]
    tensors: int
    parameters: int
    bytes: int
    dtypes: list[str]
    files: list[str]


class FileFacts(_Facts):
    """One file of a checkpoint.

    Attributes:
        path: Relative to the checkpoint.
        bytes: Its size.
        tensors: How many tensors lie in it; 0 for files that hold no weights.
    """

    path: str
    bytes: int
    tensors: int


class RunFacts(_Facts):
    """A run whose outcome this checkpoint is, by the record that it left; nothing of it is checked here.

    Attributes:
        record: The record, relative to the checkpoint.
        digest: SHA-256 of the record.
        method: What was done.
        weights_digest: Digest of the weights that the run wrote.
        base_weights_digest: Digest of those that it started from.
        request_id: What asked for it.
        request_date: Its date.
    """

    record: str
    digest: str
    method: str | None
    weights_digest: str | None
    base_weights_digest: str | None
    request_id: str | None
    request_date: str | None


class InspectResult(SchemaDocument):
    """The result of `vkdsurgeon inspect`.

    Attributes:
        model: The checkpoint's directory.
        model_type: As in config.json.
        parts: Tower, projector, language and other, in this order.
        layers: Names of the features that a recipe can train at: `layer.0` ..., `projector`.
        files: Every file of the checkpoint.
        bytes: Size of all files.
        warnings: What to know before surgery.
        runs: The runs that made it what it is, oldest first; empty for a checkpoint that was never patched.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/inspect/1"

    model: str
    model_type: str
    parts: list[PartFacts]
    layers: list[str]
    files: list[FileFacts]
    bytes: int
    warnings: list[str]
    runs: list[RunFacts]
