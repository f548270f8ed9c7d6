"""Named sets of records to measure on."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vkdsurgeon.data.read import Given, records_given, require_answers
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError

FORGET = "forget"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# First parts of metric ids that already mean something.
RESERVED_ATTACKS = {"relearn", "restore", "probe", "quantize", "perturb", "prompt", "typography", "membership"}
_TAKEN = frozenset({"reference", "gold", "delta", "gap", "room"} | RESERVED_ATTACKS)


@dataclass(frozen=True)
class NamedSet:
    """Records under the name that starts their metric ids.

    Less is better in the set `forget`, and where `held_out` says that a set shows the same subjects otherwise.
    """

    name: str
    records: tuple[Record, ...]
    held_out: bool = False

    @property
    def forget(self) -> bool:
        """Whether the set holds what is to be forgotten."""
        return self.name == FORGET or self.held_out


def read_set(name: str, given: Given) -> NamedSet:
    """A set in which every record can be measured, read unless records are given.

    Raises:
        UserError: The name cannot be used, or the file or a record in it is wrong.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise UserError(
            "not a name for a set",
            where="`sets`",
            value=name,
            expected=f"letters, digits, - and _, and none of {', '.join(sorted(_TAKEN))}",
        )
    records = records_given(given, role=name)
    require_answers(records, role=name)
    return NamedSet(name, tuple(records))


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """Draw at most `limit` records, in proportion to their tasks, in the order of the set.

    Args:
        records: All records.
        limit: Bound; None for all.
        seed: Seed of the random draw.
    """
    if limit is None or len(records) <= limit:
        return list(records)
    tasks: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        tasks.setdefault(record.task, []).append(index)
    exact = {task: limit * len(members) / len(records) for task, members in tasks.items()}
    share = {task: int(value) for task, value in exact.items()}
    for task in sorted(tasks, key=lambda task: share[task] - exact[task])[: limit - sum(share.values())]:
        share[task] += 1
    generator = random.Random(seed)
    drawn = [index for task, members in tasks.items() for index in generator.sample(members, share[task])]
    return [records[index] for index in sorted(drawn)]
