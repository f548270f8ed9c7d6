"""Patch files as documents: what one says of itself, and what was done with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.results.document import SchemaDocument

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointDigests(_Facts):
    """The digests of a checkpoint.

    Attributes:
        weights_digest: Digest of the weights, as in all documents of this tool.
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
        kept: SHA-256 of the elements that stay, in hex. It identifies the right base and reveals nothing about the
            replaced values.
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
    """The metadata of a patch file, stored under the key `vkdsurgeon`.

    Attributes:
        base: The checkpoint that it applies to.
        result: The checkpoint that it produces.
        tensors: Name on disk -> change of that tensor.
        files: Files without weights, which are stored whole: path -> SHA-256.
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
        action: `export`, `apply`, `verify` or `info`.
        patches: The patch files, in their order.
        bytes: Their total size.
        model: The checkpoint: the base of an export, or the one that was patched or checked; None without one.
        out: The checkpoint or patch that was written.
        model_bytes: Size of all files of that checkpoint.
        base_weights_digest: Digest of the first patch's base.
        result_weights_digest: Digest of the last patch's result.
        tensors: Tensors with new values.
        elements: Number of new values.
        files: Files without weights, which are stored whole.
        removed: Files that are removed.
        compression: Compression of each patch.
        state: How the checkpoint relates to the patches: `base`, `result`, `begun` (an in-place patch was interrupted)
            or `other`; None where no checkpoint was looked at.
        differing: Files that are neither the base's nor the result's.
        warnings: Warnings.
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
