"""What an attacker is shown, and what is measured instead."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.metrics import to_forget

Protocol = Literal["people", "pairs"]


@dataclass(frozen=True)
class Split:
    """Two parts of what was to be forgotten that share no person, or no kind of question about a person.

    Attributes:
        shown: Records the attacker trains on.
        measured: Records on which the return of knowledge is measured.
    """

    shown: tuple[Record, ...]
    measured: tuple[Record, ...]


def split_records(
    forget: Sequence[Record],
    heldout: Sequence[Record] | None,
    *,
    protocol: Protocol,
    fraction: float,
    seed: int,
) -> Split:
    """Divide a forget set for a relearning attack.

    Args:
        forget: The forget set; only questions about pictures that were to be forgotten take part, so neither
            `general` nor `text` tasks do.
        heldout: Other views of the same subjects; where given, the measured part is taken from them.
        protocol: `people`: some subjects are shown and the others measured. `pairs`: of every subject some kinds of
            question (tasks) are shown and the others measured.
        fraction: Share of subjects, or of each subject's tasks, that is shown; rounded, at least one, not all.
        seed: Of the draw.

    Raises:
        UserError: Too few subjects or tasks to divide, or nothing is left to measure on.
    """
    targets = [record for record in forget if to_forget(record)]
    if not targets:
        raise UserError(
            "the forget set holds nothing that an attack could bring back",
            expected="questions about pictures in tasks other than general.* and text.*",
        )
    shown = _people(targets, fraction, seed) if protocol == "people" else _pairs(targets, fraction, seed)
    chosen = tuple(record for record in targets if _key(record) in shown)
    pool = targets if heldout is None else [record for record in heldout if to_forget(record)]
    known = {_key(record) for record in targets}
    measured = tuple(record for record in pool if _key(record) in known - shown)
    if not measured:
        raise UserError(
            "the held-out set has no question of the measured part",
            where="--heldout",
            expected="other views of the forget set's subjects, under the same subjects and tasks",
        )
    return Split(chosen, measured)


def _key(record: Record) -> tuple[str, str]:
    return record.subject or "", record.task


def _people(targets: Sequence[Record], fraction: float, seed: int) -> set[tuple[str, str]]:
    subjects = sorted({record.subject or "" for record in targets})
    if len(subjects) < 2:
        raise UserError(
            "relearning some people and measuring others needs at least two subjects",
            where="--protocol",
            value="people",
            expected="a forget set with several values of `subject`",
            remedy="use --protocol pairs: some kinds of question are relearned and the others measured",
        )
    drawn = set(_draw(subjects, fraction, random.Random(seed)))
    return {_key(record) for record in targets if (record.subject or "") in drawn}


def _pairs(targets: Sequence[Record], fraction: float, seed: int) -> set[tuple[str, str]]:
    kinds: dict[str, set[str]] = {}
    for record in targets:
        kinds.setdefault(record.subject or "", set()).add(record.task)
    generator = random.Random(seed)
    shown = {
        (subject, task)
        for subject, tasks in sorted(kinds.items())
        if len(tasks) > 1
        for task in _draw(sorted(tasks), fraction, generator)
    }
    if not shown:
        raise UserError(
            "relearning some kinds of question and measuring others needs at least two tasks of one subject",
            where="--protocol",
            value="pairs",
            expected="tasks such as vqa.name and vqa.city in the forget set",
        )
    return shown


def _draw(items: Sequence[str], fraction: float, generator: random.Random) -> list[str]:
    count = min(max(1, round(fraction * len(items))), len(items) - 1)
    return generator.sample(items, count)
