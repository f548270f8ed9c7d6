"""How two checkpoints differ, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import SchemaDocument

_VISUAL = ("tower", "projector")


class TensorDifference(BaseModel):
    """One tensor whose bytes differ.

    Attributes:
        tensor: Its name on disk.
        part: `tower`, `projector`, `language`, `other`, or `unknown` where the architecture cannot be split.
        file: The file that holds it, in the base.
        elements: How many elements it has.
        changed: How many of them differ; all of them where dtype or shape differ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor: str
    part: str
    file: str
    elements: int
    changed: int


class DiffResult(SchemaDocument):
    """The result of `vkdsurgeon diff`, byte by byte.

    Attributes:
        base: Directory of the original.
        patched: Directory of the other checkpoint.
        base_weights_digest: SHA-256 of the original's weight files, in hex; None if digests were not requested.
        patched_weights_digest: The same of the other checkpoint.
        identical: Whether all files are byte-identical.
        language_identical: Whether everything outside tower and projector is the same; None if the split is unknown.
        declared_by_decoder_pass: Language tensors that the patched checkpoint's record names, and the most elements of
            each that may differ by it.
        undeclared: Tensors outside tower and projector that differ beyond what that record accounts for.
        headers_identical: Every tensor lies at the same place in the same file of both.
        tensors_compared: Number of tensors that both have.
        tensors_changed: How many of them differ.
        elements_compared: Elements of the tensors that both have.
        elements_changed: How many of them differ.
        changed: The tensors that differ.
        tensors_missing: Names of tensors that only the base has.
        tensors_added: Names of tensors that only the patched checkpoint has.
        files: Path -> `identical`, `changed`, `missing` or `extra`, of every file of either.
        split_error: Why visual and language tensors could not be told apart; None where they could.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/diff/1"

    base: str
    patched: str
    base_weights_digest: str | None
    patched_weights_digest: str | None
    identical: bool
    language_identical: bool | None
    declared_by_decoder_pass: dict[str, int]
    undeclared: list[str]
    headers_identical: bool
    tensors_compared: int
    tensors_changed: int
    elements_compared: int
    elements_changed: int
    changed: list[TensorDifference]
    tensors_missing: list[str]
    tensors_added: list[str]
    files: dict[str, Literal["identical", "changed", "missing", "extra"]]
    split_error: str | None

    @property
    def outside_visual(self) -> list[str]:
        """Tensors outside tower and projector that differ, or that only one checkpoint has."""
        strangers = [each.tensor for each in self.changed if each.part not in _VISUAL]
        return [*strangers, *self.tensors_missing, *self.tensors_added]

    def files_that_are(self, state: str) -> list[str]:
        """Paths of the files in one state, sorted."""
        return sorted(path for path, found in self.files.items() if found == state)
