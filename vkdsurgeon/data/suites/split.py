"""Which benchmark, where, and which share of it is forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vkdsurgeon.errors import UserError

Warn = Callable[[str], None]
_SPLITS = {"mllmu": (re.compile(r"forget_(\d{1,2})"), "forget_5"), "clear": (re.compile(r"forget(\d{2})"), "forget05")}


@dataclass(frozen=True)
class SuiteSplit:
    """One split of one benchmark.

    Attributes:
        suite: `mllmu` or `clear`.
        root: The directory with one folder per configuration.
        split: Name of the forget configuration, such as `forget_5` or `forget05`.
    """

    suite: Literal["mllmu", "clear"]
    root: Path
    split: str

    def __post_init__(self) -> None:
        pattern, example = _SPLITS[self.suite]
        if not pattern.fullmatch(self.split):
            raise UserError(
                "not a split of this benchmark", where="`split`", value=self.split, expected=f"such as {example}"
            )

    @property
    def forget(self) -> str:
        """Configuration of what is to be forgotten."""
        return self.split

    @property
    def retain(self) -> str:
        """The configuration of the retained people."""
        match = _SPLITS[self.suite][0].fullmatch(self.split)
        assert match is not None
        rest = 100 - int(match[1])
        return f"retain_{rest}" if self.suite == "mllmu" else f"retain{rest:02}"
