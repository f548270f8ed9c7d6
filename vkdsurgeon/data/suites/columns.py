"""Cells of a row, checked: text, and nested values that some copies of a benchmark hold as JSON strings."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.suites.parquet import Row
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import first_problem

Shape = TypeVar("Shape")
_MOST_LITERAL = 1 << 20


class Sourced(Protocol):
    """What says where it stands."""

    @property
    def source(self) -> str:
        """File and row, or file and line."""


class Skipped:
    """Counts questions that cannot be asked; published benchmarks have a few, and one must not end an evaluation."""

    def __init__(self) -> None:
        self.count = 0
        self.first: str | None = None

    def note(self, row: Sourced, why: str) -> None:
        """Count one more skipped row."""
        self.count += 1
        self.first = self.first or f"{row.source}: {why}"

    def summary(self) -> str | None:
        """One sentence, or None where nothing was passed over."""
        return (
            f"{self.count} question(s) cannot be asked and were passed over, the first at {self.first}"
            if self.count
            else None
        )


def nested(row: Row, column: str, shape: TypeAdapter[Shape]) -> Shape:
    """A nested cell; null is an empty one.

    Raises:
        UserError: Naming file, row and column: it is a string that is no JSON, or has another structure.
    """
    value = row.values[column]
    where = f"{row.source}, column {column!r}"
    if isinstance(value, str):
        try:
            # A cell that was left blank says as little as one that is not there.
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise UserError(f"broken JSON: {error}", where=where, expected="JSON, or a nested column") from None
    try:
        return shape.validate_python(value)
    except ValidationError as error:
        problem = first_problem(error)
        raise UserError(f"{problem.key or 'the cell'}: {problem.message}", where=where) from None


def literal(row: Row, column: str, shape: TypeAdapter[Shape]) -> Shape:
    """A text cell that holds a structure as JSON or as a Python literal; null is an empty one.

    Raises:
        UserError: Naming file, row and column: it is neither, or has another structure.
    """
    value = text(row, column)
    try:
        json.loads(value or "null")
    except (ValueError, RecursionError):
        try:
            # It evaluates literals alone, no names or calls, but takes a hundred times the text's memory.
            if len(value or "") > _MOST_LITERAL:
                raise ValueError(f"more than {_MOST_LITERAL} characters")
            value = json.dumps(ast.literal_eval(value or "None"))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise UserError(
                f"neither JSON nor a Python literal: {error}",
                where=f"{row.source}, column {column!r}",
                expected="a dictionary, written as JSON or as Python has it",
            ) from None
    return nested(Row({column: value}, row.source, row.stem), column, shape)


def label(row: Row, column: str) -> str:
    """A cell that must hold text or an integer, as text.

    Raises:
        UserError: The cell is blank.
    """
    value = row.values.get(column)
    return str(value) if isinstance(value, int) else required(row, column)


def text(row: Row, column: str) -> str | None:
    """A text cell without the blanks at its ends; None where nothing is left."""
    value = row.values.get(column)
    return (value.strip() or None) if isinstance(value, str) else None


def required(row: Row, column: str) -> str:
    """A text cell that must not be blank.

    Raises:
        UserError: The cell is blank.
    """
    value = text(row, column)
    if value is None:
        raise UserError("the cell is blank", where=f"{row.source}, column {column!r}", expected="text")
    return value


def choice(
    row: Sourced, skipped: Skipped, *, task: str, question: str | None, options: Mapping[str, str | None], letter: str
) -> Iterator[dict[str, Any]]:
    """What a record of a question with lettered options holds; nothing where the right letter has none.

    Args:
        row: Where it stands.
        skipped: Told of a question that is passed over.
        task: Task of the record that is made, such as `vqa`.
        question: As it is asked.
        options: By letter; blank ones are left out.
        letter: The right one.
    """
    filled = {name: option for name, option in options.items() if option and option.strip()}
    if letter not in filled:
        skipped.note(row, "no option carries the letter of the right answer")
        return
    yield {
        "task": task,
        "protocol": "choice",
        "question": question,
        "answer": filled[letter],
        "options": tuple(filled.values()),
        "letters": tuple(filled),
        "right": list(filled).index(letter),
    }


def records(
    row: Row, skipped: Skipped, questions: Iterable[Mapping[str, Any]], *, subject: str, image: Path
) -> Iterator[ProtocolRecord]:
    """The records of a row's questions; those whose task begins with v show the image.

    Args:
        row: Where they stand.
        skipped: Told of questions that are passed over.
        questions: What each record holds besides subject and image.
        subject: Who is asked about.
        image: The image of the row.
    """
    for values in questions:
        shown = image if values["task"].startswith("v") else None
        made = record(row, skipped, subject=subject, image=shown, **values)
        if made is not None:
            yield made


def record(row: Sourced, skipped: Skipped, **values: Any) -> ProtocolRecord | None:
    """A record of the row, or None where its content makes no question."""
    try:
        return ProtocolRecord(source=row.source, **values)
    except ValidationError as error:
        skipped.note(row, first_problem(error).message)
        return None
