"""Options that name a benchmark instead of files of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

if TYPE_CHECKING:
    from vkdsurgeon.data.suites.split import SuiteSplit


class SuiteName(str, Enum):
    """Where the sets come from: files of the user's, or those of a benchmark."""

    jsonl = "jsonl"
    mllmu = "mllmu"
    clear = "clear"
    umu = "umu"
    fiubench = "fiubench"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Sets of a published benchmark."""

    suite: Annotated[
        SuiteName,
        typer.Option(
            "--suite",
            metavar="NAME",
            show_default=False,
            help="Use the sets of a benchmark: mllmu, clear, umu or fiubench.",
        ),
    ] = SuiteName.jsonl
    suite_root: Annotated[
        Path | None, typer.Option("--suite-root", metavar="DIR", help="The benchmark's folder, as published.")
    ] = None
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Split of the benchmark, such as forget_5, forget05 or forget5."),
    ] = None
    panel: ClassVar[str] = "Data"

    def chosen(self, own: Mapping[str, object]) -> SuiteSplit | None:
        """The split that was asked for, or None for files of the user's.

        Args:
            own: Options that name files which the benchmark replaces, with their values.

        Raises:
            UserError: The options do not go together.
        """
        from vkdsurgeon.data.suites.split import SUITES, SuiteSplit, example_of
        from vkdsurgeon.errors import UserError

        if self.suite is SuiteName.jsonl:
            for flag, value in (("--suite-root", self.suite_root), ("--split", self.split)):
                if value is not None:
                    raise UserError("this option needs a benchmark", where=flag, remedy="add --suite mllmu, clear ...")
            return None
        name = next(each for each in SUITES if each == self.suite.value)
        for flag, given in own.items():
            if given is not None:
                raise UserError(
                    f"--suite {name} already provides this set", where=flag, remedy=f"leave out {flag}, or --suite"
                )
        if self.suite_root is None or self.split is None:
            raise UserError(
                f"--suite {name} needs {'--suite-root' if self.suite_root is None else '--split'}",
                expected=f"--suite-root DIR --split {example_of(name)}",
            )
        return SuiteSplit(name, self.suite_root, self.split)
