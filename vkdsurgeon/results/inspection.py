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
        bytes: Their size on disk.
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
        tensors: Number of tensors in it; 0 for files without weights.
    """

    path: str
    bytes: int
    tensors: int


class RunFacts(_Facts):
    """A run that produced this checkpoint, according to its record. The record is not checked here.

    Attributes:
        record: The record, relative to the checkpoint.
        digest: SHA-256 of the record.
        method: The method of the run.
        weights_digest: Digest of the weights that the run wrote.
        base_weights_digest: Digest of the weights that it started from.
        request_id: Identifier of the request behind it.
        request_date: Date of the request.
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
        modality: What the tower takes in.
        parts: Tower, projector, language and other, in this order.
        layers: Names of the features that a recipe can train at: `layer.0` ..., `projector`.
        files: Every file of the checkpoint.
        bytes: Size of all files.
        warnings: Warnings about unlearning this checkpoint.
        runs: The runs that patched it, oldest first; empty for a checkpoint that was never patched.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/inspect/1"

    model: str
    model_type: str
    modality: Literal["image", "audio"] = "image"
    parts: list[PartFacts]
    layers: list[str]
    files: list[FileFacts]
    bytes: int
    warnings: list[str]
    runs: list[RunFacts]
