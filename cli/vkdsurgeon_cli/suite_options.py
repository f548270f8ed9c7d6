"""Options that name a benchmark instead of files of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vkdsurgeon.data.suites.split import SuiteSplit


class SuiteName(str, Enum):
    """Where the sets come from: files of the user's, or the parquet files of a benchmark."""

    jsonl = "jsonl"
    mllmu = "mllmu"
    clear = "clear"


SuiteOption = Annotated[
    SuiteName,
    typer.Option("--suite", help="Where the sets come from: your own files, or MLLMU-Bench or CLEAR as published."),
]
SuiteRootOption = Annotated[
    Path | None,
    typer.Option("--suite-root", help="The benchmark's directory, with one folder of parquet files per configuration."),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="What is forgotten: forget_5 (mllmu) or forget05 (clear), and so on.")
]


def split_of(suite: SuiteName, root: Path | None, split: str | None, own: Mapping[str, object]) -> SuiteSplit | None:
    """The split that was asked for, or None for files of the user's.

    Args:
        suite: `--suite`.
        root: `--suite-root`.
        split: `--split`.
        own: Options that name files which the benchmark replaces, with their values.

    Raises:
        UserError: The options do not go together.
    """
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.errors import UserError

    if suite is SuiteName.jsonl:
        for flag, given in (("--suite-root", root is not None), ("--split", split is not None)):
            if given:
                raise UserError("an option of a benchmark without one", where=flag, remedy="add --suite mllmu or clear")
        return None
    for flag, value in own.items():
        if value is not None:
            raise UserError(
                f"--suite {suite.value} brings this set itself", where=flag, remedy=f"leave out {flag}, or --suite"
            )
    if root is None or split is None:
        raise UserError(
            f"--suite {suite.value} needs {'--suite-root' if root is None else '--split'}",
            expected="--suite-root DIR --split " + ("forget_5" if suite is SuiteName.mllmu else "forget05"),
        )
    return SuiteSplit(suite.value, root, split)
