"""The world as records on disk: JSON lines and PNG images, under the names the study's cases have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.real.companies import Company, World
from benchmarks.real.emblems import View, render
from benchmarks.real.questions import Question, about_company, about_view, text_questions


def write_records(world: World, out: Path) -> None:
    """Write every record file and every image.

    Args:
        world: Who is to be seen.
        out: A directory; created. Images go to `images/`, paths in the records are relative to the files.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    sets = {
        "forget": [(company, company.views) for company in world.forget],
        "forget_heldout": [(company, company.heldout) for company in world.forget],
        "retain": [(company, company.views) for company in world.retain],
        "retain_heldout": [(company, company.heldout) for company in world.retain],
        "generic": [(company, company.views) for company in world.strangers],
    }
    for name, shown in sets.items():
        rows = [row for company, views in shown for row in _rows(company, views, world.names, out, name)]
        _write(out / f"{name}.jsonl", rows)
    _write(out / "text.jsonl", [_row(question, company.name) for company, question in text_questions(world)])


def _rows(
    company: Company, views: Iterable[View], names: tuple[str, ...], out: Path, set_name: str
) -> list[dict[str, Any]]:
    rows = []
    for number, view in enumerate(views):
        kind = "heldout" if set_name.endswith("heldout") else "view"
        image = f"images/{company.name.lower()}-{kind}{number:02d}.png"
        render(company.emblem, view).save(out / image, "PNG")
        asked = (*about_company(company, names), *about_view(view))
        rows += [{"image": image, **_row(question, company.name)} for question in asked]
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
