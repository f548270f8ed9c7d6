"""A share of a list of runs, so that several machines or jobs do them together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vkdsurgeon.errors import UserError

_WRITTEN = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Every `of`-th run of a list, from position `number` on; which ones depends on nothing else.

    Attributes:
        number: From 0.
        of: How many shards there are.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise UserError(
                "there is no such shard", where="`shard`", value=str(self), expected="I/N with I from 0 to N - 1"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def takes(self, position: int) -> bool:
        """Whether the run at this position of the list, from 0, belongs to this shard."""
        return position % self.of == self.number


def shard_of(text: str | None) -> Shard | None:
    """The shard behind `I/N`, I from 0; None for the whole list.

    Raises:
        UserError: It is not written so, or I is not below N.
    """
    if text is None:
        return None
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise UserError("not a shard", where="`shard`", value=text, expected="I/N, such as 0/4, with I from 0 to N - 1")
    return Shard(int(match[1]), int(match[2]))
