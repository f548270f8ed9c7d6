"""The cast as records on disk: JSON lines and PNG images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.miniature_model.look import View
from benchmarks.miniature_model.people import Cast, Person
from benchmarks.miniature_model.questions import Question, about_person, about_view, text_questions
from benchmarks.miniature_model.styles import STYLES, Style

RECORD_FILES = (
    "forget.jsonl", "forget_heldout.jsonl", "retain.jsonl", "retain_heldout.jsonl", "generic.jsonl", "text.jsonl",
)  # fmt: skip


def write_records(cast: Cast, out: Path, style: Style = STYLES["avatars"]) -> None:
    """Write every record file and every image.

    Args:
        cast: Who is to be seen.
        out: A directory; created. Images go to `images/`, paths in the records are relative to the files.
        style: How they are drawn.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    sets = (
        ("forget", [(person, person.views) for person in cast.forget]),
        ("forget_heldout", [(person, person.heldout) for person in cast.forget]),
        ("retain", [(person, person.views) for person in cast.retain]),
        ("retain_heldout", [(person, person.heldout) for person in cast.retain]),
        ("generic", [(person, person.views) for person in cast.strangers]),
    )
    for name, shown in sets:
        rows: list[dict[str, Any]] = []
        for person, views in shown:
            rows += _rows_of(person, views, cast, out, name, style)
        _write(out / f"{name}.jsonl", rows)
    _write(out / "text.jsonl", [_row(question, person.name) for person, question in text_questions(cast)])


def _rows_of(
    person: Person, views: Iterable[View], cast: Cast, out: Path, name: str, style: Style
) -> list[dict[str, Any]]:
    rows = []
    for number, view in enumerate(views):
        image = f"images/{person.name.lower()}-{'heldout' if name.endswith('heldout') else 'view'}{number:02d}.png"
        style(person.look, view).save(out / image, "PNG", optimize=True)
        # Strangers have no name and no facts: only what the image shows is asked.
        asked = about_person(person, cast.names) if person.facts else []
        rows += [{"image": image, **_row(question, person.name)} for question in (*asked, *about_view(view))]
    return rows


def _row(question: Question, subject: str) -> dict[str, Any]:
    return {
        "question": question.wordings[0],
        "answer": question.answer,
        "options": list(question.options),
        "subject": subject,
        "task": question.task,
    }


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
