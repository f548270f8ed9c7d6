"""MLLMU-Bench (arXiv 2410.22108): profiles of fictitious people, one image each, and of celebrities."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites import columns
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon.data.suites.parquet import IMAGE, IMAGES, NESTED, TEXT, Kind, Row, columns_of, read_rows
from vkdsurgeon.data.suites.split import SuiteSplit, Warn

TEST, CELEBRITIES = "Test_Set", "Retain_Set"
_TASKS = {"Classification_Task": NESTED, "Generation_Task": NESTED, "Mask_Task": NESTED}
_COLUMNS = {"image": IMAGE, "ID": TEXT, **_TASKS}


class _Item(BaseModel):
    Question: str | None = None
    Options: dict[str, str | None] = {}
    Correct_Answer: str | None = None


class _Choices(BaseModel):
    Image_Textual_Questions: list[_Item] | None = None
    Pure_Text_Questions: list[_Item] | None = None


class _Free(BaseModel):
    Type: Literal["Image_Textual", "Pure_Text"]
    Question: str | None = None
    Ground_Truth: str | None = None


class _Fact(BaseModel):
    Question: str | None = None
    Answer: str | None = None


_CHOICES: TypeAdapter[_Choices | None] = TypeAdapter(_Choices | None)
_FREE: TypeAdapter[list[_Free] | None] = TypeAdapter(list[_Free] | None)
_FACTS: TypeAdapter[list[_Fact] | None] = TypeAdapter(list[_Fact] | None)


def evaluation_sets(split: SuiteSplit, images: ImageFolder, seed: int, warn: Warn) -> list[NamedSet]:
    """Forget, test (the same people on other images, asked in other words), retain and real celebrities.

    Tasks are `vqa` and `qa` (choice), `vcloze` and `cloze`, `vgen` and `gen`: with and without the image.

    Args:
        split: The split: root, suite and name.
        images: Where images are written to.
        seed: Draws one of the several images of a row of the test set.
        warn: Called with a message about questions that cannot be asked.
    """
    skipped = columns.Skipped()
    forget = list(_records(read_rows(split.root, split.forget, _COLUMNS), images, seed, skipped))
    ids = {record.subject for record in forget}
    shown = {name: kind for name, kind in _COLUMNS.items() if name != "image"} | {"images": IMAGES}
    test = (row for row in read_rows(split.root, TEST, shown) if columns.required(row, "ID") in ids)
    sets = [
        NamedSet("forget", tuple(forget)),
        NamedSet("test", tuple(_records(test, images, seed, skipped)), held_out=True),
        NamedSet("retain", tuple(_records(read_rows(split.root, split.retain, _COLUMNS), images, seed, skipped))),
        NamedSet("real", tuple(_records(read_rows(split.root, CELEBRITIES, _COLUMNS), images, seed, skipped))),
    ]
    if summary := skipped.summary():
        warn(summary)
    return sets


def unlearning_sets(split: SuiteSplit, images: ImageFolder) -> tuple[list[Record], list[Record]]:
    """Forget and retain images, of the benchmark itself or of its split for training (`image` and `metadata`)."""
    return tuple(  # type: ignore[return-value]
        [_image_record(row, images) for row in read_rows(split.root, config, _training_columns(split, config))]
        for config in (split.forget, split.retain)
    )


def _training_columns(split: SuiteSplit, config: str) -> dict[str, Kind]:
    there = columns_of(split.root, config)
    if "metadata" in there:
        return {"image": IMAGE, "metadata": TEXT, **({"ID": TEXT} if "ID" in there else {})}
    return {"image": IMAGE, "ID": TEXT, "question": TEXT, "answer": TEXT}


def _image_record(row: Row, images: ImageFolder) -> Record:
    question, answer = columns.text(row, "question"), columns.text(row, "answer")
    if "metadata" in row.values:
        facts = columns.nested(row, "metadata", _FACTS) or []
        answered = [
            (fact.Question, fact.Answer) for fact in facts if not (_blank(fact.Question) or _blank(fact.Answer))
        ]
        question, answer = answered[0] if answered else (None, None)
    return Record(
        image=images.keep(row.values["image"], row, "image"),
        # Every row is one person; where the file names nobody, the row does.
        subject=columns.required(row, "ID") if "ID" in row.values else row.stem,
        question=question,
        answer=answer if question else None,
        source=row.source,
    )


def _blank(text: str | None) -> bool:
    return text is None or not text.strip()


def _records(rows: Iterable[Row], images: ImageFolder, seed: int, skipped: columns.Skipped) -> Iterator[ProtocolRecord]:
    for row in rows:
        subject = columns.required(row, "ID")
        column = "images" if "images" in row.values else "image"
        cell, number = row.values[column], 0
        if column == "images":
            number = random.Random(f"{seed} {subject}").randrange(len(cell)) if cell else 0
            cell = cell[number] if cell else None
        image = images.keep(cell, row, column, number)
        yield from columns.records(row, skipped, _questions(row, skipped), subject=subject, image=image)


def _questions(row: Row, skipped: columns.Skipped) -> Iterator[dict[str, Any]]:
    choices = columns.nested(row, "Classification_Task", _CHOICES) or _Choices()
    for task, items in (("vqa", choices.Image_Textual_Questions), ("qa", choices.Pure_Text_Questions)):
        for item in items or []:
            letter = (item.Correct_Answer or "").strip()
            yield from columns.choice(
                row, skipped, task=task, question=item.Question, options=item.Options, letter=letter
            )
    for column, protocol in (("Mask_Task", "cloze"), ("Generation_Task", "generation")):
        for free in columns.nested(row, column, _FREE) or []:
            task = {"cloze": "cloze", "generation": "gen"}[protocol]
            yield {
                "task": f"v{task}" if free.Type == "Image_Textual" else task,
                "protocol": protocol,
                "question": free.Question,
                "answer": free.Ground_Truth,
            }
