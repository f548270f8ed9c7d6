"""Types that the signatures of the public API share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from vkdsurgeon.data.record import Record

PathLike: TypeAlias = str | Path
"""A path to a file or a directory."""
RecordSet: TypeAlias = "str | Path | Sequence[Record]"
"""A set of records: a file (JSON lines, JSON or parquet), a folder of images or clips, or `Record` objects."""
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "mixed"]
"""The precision of weights in memory while they are trained."""
AttackName: TypeAlias = Literal[
    "relearn", "restore", "probe", "quantize", "perturb", "prompt", "typography", "membership"
]
"""The attacks that `attack` can run."""
