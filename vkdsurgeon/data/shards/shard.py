"""What tars and parquet files have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# What a record may take over from the sample beside its image.
TAKEN = ("subject", "question", "answer", "options")


@dataclass(frozen=True)
class ShardSample:
    """One image of a shard.

    Attributes:
        content: The bytes of the image file, as they are in the shard; empty where it holds none.
        suffix: How the file's name ends, such as `.jpg`; may be empty.
        facts: Those of `TAKEN` that the shard gives.
        source: Where it stands, for messages.
        fault: Why there are no facts, where the shard has some that cannot be read.
    """

    content: bytes
    suffix: str
    facts: Mapping[str, Any]
    source: str
    fault: str | None = None


class Shard(Protocol):
    """One file of many images, never held in memory as a whole.

    Attributes:
        path: The file.
        apart: Descriptions without an image beside them, which nothing is taken from; known once it was counted.
    """

    path: Path
    apart: int

    def count(self) -> int:
        """How many images it holds.

        Raises:
            UserError: The file is damaged, or no such file.
        """

    def read(self, wanted: Sequence[int], *, described: bool = True) -> Iterator[ShardSample]:
        """The images of these numbers, counted from 0 and ascending; without facts unless they are `described`.

        Raises:
            UserError: The file is damaged.
        """
