"""Demonstrations before questions: everything asked about one kept person, who is then not asked about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from vkdsurgeon.data.protocol import ProtocolRecord, Shot, expected, wording
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import UserError

_SHOWN_TO = frozenset({"forget", "test", "retain"})


def with_shots(sets: Sequence[NamedSet], seed: int) -> tuple[list[NamedSet], int]:
    """Put demonstrations before choices and clozes about fictitious people; generations get none.

    One person of the retain set is drawn; all questions of the same task on this person's first image, with their
    answers, precede every question.

    Args:
        sets: Sets of a benchmark, `retain` among them.
        seed: Seed of the random draw.

    Returns:
        The sets, without the person; and the largest number of demonstrations before a question.

    Raises:
        UserError: There is nobody to demonstrate on.
    """
    asked = [
        record
        for named in sets
        if named.name == "retain"
        for record in named.records
        if isinstance(record, ProtocolRecord) and record.protocol != "generation"
    ]
    people = sorted({record.subject for record in asked if record.subject is not None})
    if len(people) < 2:
        raise UserError(
            "too few retain people for few-shot examples", where="`few_shot`", expected="two or more retained people"
        )
    person = random.Random(seed).choice(people)
    theirs = [record for record in asked if record.subject == person]
    images = [record.image for record in theirs if record.image is not None]
    shots: dict[str, list[Shot]] = {}
    for record in theirs:
        if record.image is None or record.image == images[0]:
            shot = Shot(image=record.image, question=wording(record), answer=expected(record))
            shots.setdefault(record.task, []).append(shot)

    def shown(record: ProtocolRecord) -> ProtocolRecord:
        found = () if record.protocol == "generation" else tuple(shots.get(record.task, ()))
        return record.model_copy(update={"shots": found})

    changed = []
    for named in sets:
        records = named.records
        if named.name in _SHOWN_TO:
            rest = [record for record in records if record.subject != person]
            records = tuple(shown(each) if isinstance(each, ProtocolRecord) else each for each in rest)
        changed.append(replace(named, records=records))
    return changed, max(len(each) for each in shots.values())
