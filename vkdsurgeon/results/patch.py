"""Patch files as documents: what one says of itself, and what was done with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.results.document import SchemaDocument

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointDigests(_Facts):
    """Which checkpoint is meant.

    Attributes:
        weights_digest: As every document of this tool names weights.
        files: Path relative to the checkpoint -> SHA-256 of the file, in hex.
    """

    weights_digest: Sha256
    files: dict[str, Sha256]


class PatchedTensor(_Facts):
    """One tensor that the patch changes.

    Attributes:
        file: The weight file that holds it.
        dtype: As safetensors spells it.
        shape: Its shape.
        changed: How many elements get new values.
        kept: SHA-256 of the elements that stay, in hex. It tells the right base from another, and says nothing of the
            values that go.
        result: SHA-256 of the whole tensor with its new values.
        content: SHA-256 of mask and new values, so that a damaged patch is found before anything is written.
    """

    file: str
    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    changed: int = Field(gt=0)
    kept: Sha256
    result: Sha256
    content: Sha256


class PatchFacts(SchemaDocument):
    """What a patch file says of itself, in its metadata under `vkdsurgeon`.

    Attributes:
        base: The checkpoint that it is for.
        result: What comes out, file by file.
        tensors: Name on disk -> what changes.
        files: Whole new content of files that hold no weights: path -> SHA-256.
        removed: Files of the base that the result does not have.
        compression: How masks and values are stored.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/patch/1"

    base: CheckpointDigests
    result: CheckpointDigests
    tensors: dict[str, PatchedTensor]
    files: dict[str, Sha256]
    removed: list[str]
    compression: Literal["none", "zstd"]


class PatchResult(SchemaDocument):
    """What `patch export`, `patch apply`, `patch verify` and `patch info` did or found.

    Attributes:
        action: Which of them.
        patches: The patch files, in their order.
        bytes: Their size together.
        model: The checkpoint: the base of an export, what was patched or looked at; None where none was.
        out: The checkpoint or patch that was written.
        model_bytes: Size of all files of that checkpoint.
        base_weights_digest: Digest of the first patch's base.
        result_weights_digest: Digest of the last patch's result.
        tensors: Tensors with new values.
        elements: New values.
        files: Files that hold no weights and come whole.
        removed: Files that go.
        compression: Compression of each patch.
        state: What the checkpoint is to the patches: `base`, `result`, `begun` (an in-place patch was interrupted) or
            `other`; None where no checkpoint was looked at.
        differing: Files that are neither the base's nor the result's.
        warnings: What to know.
        seconds: Wall time.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/patch-run/1"

    action: Literal["export", "apply", "verify", "info"]
    patches: list[str]
    bytes: int
    model: str | None = None
    out: str | None = None
    model_bytes: int | None = None
    base_weights_digest: str
    result_weights_digest: str
    tensors: int
    elements: int
    files: list[str]
    removed: list[str]
    compression: list[str]
    state: Literal["base", "result", "begun", "other"] | None = None
    differing: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    seconds: float = 0.0
