"""How a run that was made again compares with the release, as a document."""

from __future__ import annotations

from typing import ClassVar, Literal

from vkdsurgeon.results.document import SchemaDocument
from vkdsurgeon.results.judged import Judged


class ReproduceResult(Judged, SchemaDocument):
    """What `vkdsurgeon reproduce` found.

    Attributes:
        patched: The patched checkpoint.
        base: The checkpoint that it was made from.
        grade: `bytes` if all files are identical; `close` if the same weights changed in nearly the same way;
            `different` otherwise.
        environment: Differences of the environment, such as `torch` or `threads`: as recorded, and now.
        tensors_differing: Number of tensors that are not identical.
        relative_difference: Norm of the difference of both results over the norm of the release's change.
        cosine: Cosine similarity of both changes, over all changed tensors.
        same_elements: Elements that both runs changed, of those that either did.
        files_differing: Files that are not identical; the record is one where the weights are.
        seconds: Wall time of the run.
    """

    SCHEMA: ClassVar[str] = "vkdsurgeon/reproduce/1"

    patched: str
    base: str
    grade: Literal["bytes", "close", "different"]
    environment: dict[str, list[str]]
    tensors_differing: int
    relative_difference: float
    cosine: float
    same_elements: float
    files_differing: list[str]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """Why this is no reproduction: on an equal machine bytes are owed, on another one a close result."""
        if self.grade == "bytes" or (self.grade == "close" and self.environment):
            return []
        beside = "on an equal machine, where bytes should come out" if not self.environment else "on another machine"
        return [
            f"the run came out {self.grade} {beside}: {self.tensors_differing} tensors differ, by "
            f"{self.relative_difference:.2%} of the change"
        ]
