"""Which benchmark, where, and which share of it is forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from vkdsurgeon.errors import UserError

Warn = Callable[[str], None]
Suite: TypeAlias = Literal["mllmu", "clear", "umu", "fiubench"]
SUITES: tuple[Suite, ...] = get_args(Suite)


@dataclass(frozen=True)
class _Names:
    """How a benchmark names its splits: the forgotten share in percent, an example, and the retained part."""

    forget: re.Pattern[str]
    example: str
    retain: Callable[[int], str]


_SPLITS: dict[Suite, _Names] = {
    "mllmu": _Names(re.compile(r"forget_(\d{1,2})"), "forget_5", lambda percent: f"retain_{100 - percent}"),
    "clear": _Names(re.compile(r"forget(\d{2})"), "forget05", lambda percent: f"retain{100 - percent:02}"),
    "umu": _Names(re.compile(r"forget_(\d{1,2})"), "forget_5", lambda percent: f"retain_{100 - percent}"),
    "fiubench": _Names(
        re.compile(r"forget(1|5|10)"), "forget5", lambda percent: "retain15" if percent == 10 else "retain5"
    ),
}


def example_of(suite: Suite) -> str:
    """The name of a split of this benchmark."""
    return _SPLITS[suite].example


@dataclass(frozen=True)
class SuiteSplit:
    """One split of one benchmark.

    Attributes:
        suite: `mllmu`, `clear`, `umu` or `fiubench`.
        root: The directory with one folder per configuration; of FIUBench, with its JSON files.
        split: Name of the forget configuration, such as `forget_5`, `forget05` or `forget5`.
    """

    suite: Suite
    root: Path
    split: str

    def __post_init__(self) -> None:
        names = _SPLITS[self.suite]
        if not names.forget.fullmatch(self.split):
            raise UserError(
                "not a split of this benchmark", where="`split`", value=self.split, expected=f"such as {names.example}"
            )

    @property
    def forget(self) -> str:
        """Configuration of what is to be forgotten."""
        return self.split

    @property
    def retain(self) -> str:
        """The configuration of the retained people."""
        names = _SPLITS[self.suite]
        match = names.forget.fullmatch(self.split)
        assert match is not None
        return names.retain(int(match[1]))
