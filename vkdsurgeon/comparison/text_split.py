"""The text set, divided: one half is measured, the other half is given to the methods that use text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.data.record import Record
from vkdsurgeon.files.atomic import write_whole


def divide_text(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Divide a text set by its questions, every task by itself and always in the same way.

    Returns:
        What methods are given, and what is measured; of an odd number of questions the larger part. No question is in
        both.
    """
    tasks: dict[str, dict[str, None]] = {}
    for record in records:
        tasks.setdefault(record.task, {})[str(record.question)] = None
    given: set[str] = set()
    taken: set[str] = set()
    generator = random.Random(0)
    for questions in tasks.values():
        # A question that stands under two tasks belongs to one half all the same.
        fresh = [question for question in questions if question not in taken]
        given.update(generator.sample(fresh, len(fresh) // 2))
        taken.update(fresh)
    halves: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        halves[record.question not in given].append(record)
    return halves


def write_text(records: Sequence[Record], path: Path) -> Path:
    """Records without images as JSON lines."""
    kept = {"question", "answer", "options", "subject", "task"}
    lines = [record.model_dump(mode="json", include=kept, exclude_none=True) for record in records]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path
