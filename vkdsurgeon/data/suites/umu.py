"""UMU-Bench: profiles of fictitious people and celebrities, every question once with the image and once as text.

Its cells are Python literals or JSON: `Classify`, `Cloze` and `Generation` hold questions under the same keys for both
modalities, `MM_QA` the questions that the benchmark trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites import columns
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon.data.suites.parquet import IMAGE, LABEL, TEXT, Row, read_rows
from vkdsurgeon.data.suites.split import SuiteSplit, Warn

CELEBRITIES = "Real_Person_Set"
_ASKED = {"image": IMAGE, "ID": LABEL, "Classify": TEXT, "Cloze": TEXT, "Generation": TEXT}
_SHOWN = {"image": IMAGE, "ID": LABEL, "MM_QA": TEXT}
# Task without and with the image, by the letter that the house puts before.
_FREE: dict[str, tuple[str, Literal["cloze", "generation"]]] = {
    "Cloze": ("cloze", "cloze"),
    "Generation": ("gen", "generation"),
}


class _Item(BaseModel):
    question: str | None = None
    options: dict[str, str | None] = {}
    answer: str | None = None


class _Task(BaseModel):
    unimodal: dict[str, _Item] = {}
    # So the published files spell it.
    multimodal: dict[str, _Item] = Field(default={}, validation_alias=AliasChoices("muitimodal", "multimodal"))


class _Pairs(BaseModel):
    question: dict[str, str | None] = {}
    answer: dict[str, str | None] = {}


_TASK: TypeAdapter[_Task | None] = TypeAdapter(_Task | None)
_PAIRS: TypeAdapter[_Pairs | None] = TypeAdapter(_Pairs | None)


def evaluation_sets(split: SuiteSplit, images: ImageFolder, seed: int, warn: Warn) -> list[NamedSet]:
    """Forget, retain and real people; the benchmark has no other images of the forgotten.

    Tasks are `vqa` and `qa` (choice), `vcloze` and `cloze`, `vgen` and `gen`: with and without the image.

    Args:
        split: The split: root, suite and name.
        images: Where images are written to.
        seed: Not used: nothing is drawn.
        warn: Called with a message about questions that cannot be asked.
    """
    skipped = columns.Skipped()
    configs = {"forget": split.forget, "retain": split.retain, "real": CELEBRITIES}
    sets = [NamedSet(name, tuple(_records(split, config, images, skipped))) for name, config in configs.items()]
    if summary := skipped.summary():
        warn(summary)
    return sets


def unlearning_sets(split: SuiteSplit, images: ImageFolder) -> tuple[list[Record], list[Record]]:
    """Forget and retain images, each with the first question of `MM_QA`; the subject is the ID."""
    return tuple(  # type: ignore[return-value]
        [_image_record(row, images) for row in read_rows(split.root, config, _SHOWN)]
        for config in (split.forget, split.retain)
    )


def _image_record(row: Row, images: ImageFolder) -> Record:
    pairs = columns.literal(row, "MM_QA", _PAIRS) or _Pairs()
    answered = [
        (question, pairs.answer[key])
        for key, question in pairs.question.items()
        if (question or "").strip() and (pairs.answer.get(key) or "").strip()
    ]
    question, answer = answered[0] if answered else (None, None)
    return Record(
        image=images.keep(row.values["image"], row, "image"),
        subject=columns.label(row, "ID"),
        question=question,
        answer=answer,
        source=row.source,
    )


def _records(split: SuiteSplit, config: str, images: ImageFolder, skipped: columns.Skipped) -> Iterator[ProtocolRecord]:
    for row in read_rows(split.root, config, _ASKED):
        subject, image = columns.label(row, "ID"), images.keep(row.values["image"], row, "image")
        yield from columns.records(row, skipped, _questions(row, skipped), subject=subject, image=image)


def _questions(row: Row, skipped: columns.Skipped) -> Iterator[dict[str, Any]]:
    choices = columns.literal(row, "Classify", _TASK) or _Task()
    for task, items in (("vqa", choices.multimodal), ("qa", choices.unimodal)):
        for key, item in items.items():
            # The benchmark's script takes the right letter of both from the question in text.
            letter = _before_stop(choices.unimodal.get(key, item).answer)
            yield from columns.choice(
                row, skipped, task=task, question=item.question, options=item.options, letter=letter
            )
    for column, (name, protocol) in _FREE.items():
        asked = columns.literal(row, column, _TASK) or _Task()
        for task, items in ((f"v{name}", asked.multimodal), (name, asked.unimodal)):
            for item in items.values():
                answer = _before_stop(item.answer) if protocol == "cloze" else item.answer
                yield {"task": task, "protocol": protocol, "question": item.question, "answer": answer}


def _before_stop(answer: str | None) -> str:
    # The benchmark's script compares no more of letters and blanks.
    return (answer or "").split(".")[0].strip()
