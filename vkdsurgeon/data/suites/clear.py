"""CLEAR (arXiv 2410.18057): fictitious people on many images each, with captions, names and TOFU's text."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Iterator

from pydantic import TypeAdapter

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites import columns
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon.data.suites.parquet import IMAGE, TEXT, TEXTS, Row, read_rows
from vkdsurgeon.data.suites.split import SuiteSplit, Warn

RETAIN_PERTURBED = "retain_perturbed"
REAL = ("real_faces", "real_world")
# The benchmark draws one of several wordings at random; one of our own keeps runs comparable.
NAME_QUESTION = "What is the name of the person in this picture?"
CAPTION_QUESTION = "Describe this picture."
_CAPTIONED = {"image": IMAGE, "caption": TEXT, "name": TEXT}
_PERTURBED = {**_CAPTIONED, "paraphrased_caption": TEXT, "perturbed_captions": TEXTS, "perturbed_names": TEXTS}
_TOFU = {"image": IMAGE, "question": TEXT, "answer": TEXT}
_ASKED = {"image": IMAGE, "question": TEXT, "answer": TEXT, "options": TEXTS}
_LIST: TypeAdapter[list[str | None] | None] = TypeAdapter(list[str | None] | None)


def evaluation_sets(split: SuiteSplit, images: ImageFolder, seed: int, warn: Warn) -> list[NamedSet]:
    """Forget, retain, real faces and real-world images.

    Tasks are `vqa` (choose the name, or the answer), `vgen` (caption) and `gen` (TOFU's questions, text only). Names
    and captions come from the perturbed configurations, text from those with `+tofu`.

    Args:
        split: The split: root, suite and name.
        images: Where images are written to.
        seed: Draws the order of options.
        warn: Called with a message about what is skipped.
    """
    skipped = columns.Skipped()
    forget = list(_perturbed(split, f"{split.forget}_perturbed", images, seed, skipped))
    names = {record.subject for record in forget}
    kept = list(_perturbed(split, RETAIN_PERTURBED, images, seed, skipped))
    retain = [record for record in kept if record.subject not in names]
    if len(retain) < len(kept):
        warn(
            f"{len(kept) - len(retain)} question(s) of {RETAIN_PERTURBED} are about people of {split.forget}; left out"
        )
    sets = [
        NamedSet("forget", (*forget, *_text(split, split.forget, skipped))),
        NamedSet("retain", (*retain, *_text(split, split.retain, skipped))),
        *(NamedSet(config, tuple(_real(split, config, images, seed, skipped))) for config in REAL),
    ]
    if summary := skipped.summary():
        warn(summary)
    return sets


def unlearning_sets(split: SuiteSplit, images: ImageFolder) -> tuple[list[Record], list[Record]]:
    """Forget and retain images with their captions; the subject is the name."""
    return tuple(  # type: ignore[return-value]
        [
            Record(
                image=images.keep(row.values["image"], row, "image"),
                subject=columns.required(row, "name"),
                question=CAPTION_QUESTION if columns.text(row, "caption") else None,
                answer=columns.text(row, "caption"),
                source=row.source,
            )
            for row in read_rows(split.root, config, _CAPTIONED)
        ]
        for config in (split.forget, split.retain)
    )


def _perturbed(
    split: SuiteSplit, config: str, images: ImageFolder, seed: int, skipped: columns.Skipped
) -> Iterator[ProtocolRecord]:
    for row in read_rows(split.root, config, _PERTURBED):
        name, caption = columns.required(row, "name"), columns.text(row, "caption")
        image = images.keep(row.values["image"], row, "image")
        chosen = _choice(row, seed, NAME_QUESTION, name, _texts(row, "perturbed_names"))
        asked = columns.record(row, skipped, task="vqa", image=image, subject=name, **chosen)
        described = columns.record(
            row,
            skipped,
            task="vgen",
            protocol="generation",
            image=image,
            subject=name,
            question=CAPTION_QUESTION,
            answer=caption,
            paraphrase=columns.text(row, "paraphrased_caption"),
            perturbed=tuple(_texts(row, "perturbed_captions")),
        )
        yield from (record for record in (asked, described) if record is not None)


def _text(split: SuiteSplit, config: str, skipped: columns.Skipped) -> Iterator[ProtocolRecord]:
    # Only whether there is an image matters, so its bytes are not read.
    for row in read_rows(split.root, f"{config}+tofu", _TOFU, nested=("image.path",)):
        if row.values["image"] is None:
            made = columns.record(
                row,
                skipped,
                task="gen",
                protocol="generation",
                question=columns.text(row, "question"),
                answer=columns.text(row, "answer"),
            )
            if made is not None:
                yield made


def _real(
    split: SuiteSplit, config: str, images: ImageFolder, seed: int, skipped: columns.Skipped
) -> Iterator[ProtocolRecord]:
    for row in read_rows(split.root, config, _ASKED):
        cell = row.values["image"]
        image = None if cell is None else images.keep(cell, row, "image")
        question, answer = columns.text(row, "question") or NAME_QUESTION, columns.text(row, "answer")
        if answer is None:
            skipped.note(row, "the answer is blank")
            continue
        chosen = _choice(row, seed, question, answer, _texts(row, "options"))
        made = columns.record(row, skipped, task="qa" if image is None else "vqa", image=image, **chosen)
        if made is not None:
            yield made


def _choice(row: Row, seed: int, question: str, answer: str, wrong: list[str]) -> dict[str, object]:
    """A choice among the right answer, which the lists may hold or not, and wrong ones; in an order drawn per row."""
    options = list(dict.fromkeys([answer, *wrong]))[: len(string.ascii_uppercase)]
    # Of the text, not of Python's hash, so that every run draws the same.
    digest = hashlib.sha256(f"{seed} {row.stem} {options}".encode()).digest()
    random.Random(digest).shuffle(options)
    return {
        "protocol": "choice",
        "question": question,
        "answer": answer,
        "options": tuple(options),
        "letters": tuple(string.ascii_uppercase[: len(options)]),
        "right": options.index(answer),
    }


def _texts(row: Row, column: str) -> list[str]:
    return [value.strip() for value in columns.nested(row, column, _LIST) or [] if value and value.strip()]
