"""Problems in settings, rows and documents, for error messages: what pydantic found first, and misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True)
class Problem:
    """The first problem that pydantic found.

    Attributes:
        path: Keys and positions that lead to the value; empty where the whole is wrong.
        message: What is wrong, as a clause that starts with a small letter.
        value: The value at fault.
        kind: Pydantic's name for this kind of problem, such as `missing`.
    """

    path: tuple[str | int, ...]
    message: str
    value: Any
    kind: str

    @property
    def key(self) -> str:
        """The path with dots, such as `gates.eval.0`; empty where the whole is wrong."""
        return ".".join(map(str, self.path))

    @property
    def unknown_key(self) -> bool:
        """Whether the key does not exist."""
        return self.kind == "extra_forbidden"

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.path else self.message


def first_problem(error: ValidationError) -> Problem:
    """The problem to tell the user: the first one."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return Problem(first["loc"], message[:1].lower() + message[1:], first["input"], first["type"])


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str | None:
    """A hint that names similar names, such as `did you mean 'steps'?`; None if no known name is similar.

    Args:
        name: The unknown name.
        known: The names that exist.
        most: The largest number of names in the hint.
    """
    near = difflib.get_close_matches(name, list(known), n=most)
    return f"did you mean {' or '.join(repr(each) for each in near)}?" if near else None
