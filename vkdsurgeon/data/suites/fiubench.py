"""FIUBench (arXiv 2411.03554): fictitious people on one face image each, with twenty questions and perturbed answers.

Published as JSON: a line per person in `full.json`, the IDs of the splits in `split.json`, the images unpacked beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.paths import media_path
from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.rows import read_rows
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.data.suites.columns import Skipped, record
from vkdsurgeon.data.suites.images import ImageFolder
from vkdsurgeon.data.suites.split import SuiteSplit, Warn
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import first_problem

# The second name is that of the hub's newer upload.
PEOPLE, SPLITS = ("full.json", "full_data.json"), "split.json"
# The file holds more, and the benchmark's code cuts it here.
MOST_PEOPLE = 400
_FORGET = ("forget1", "forget5", "forget10")


def _list(value: object) -> object:
    return [] if value is None else [value] if isinstance(value, str) else value


_Texts = Annotated[list[str | None], BeforeValidator(_list)]


class _Question(BaseModel):
    question: str | None = None
    answer: str | None = None
    paraphrased_question: _Texts = []
    paraphrased_answer: _Texts = []
    perturbed_answer: _Texts = []


class _Person(BaseModel):
    id: str = Field(validation_alias=AliasChoices("unique_id", "unique"), min_length=1)
    image_path: str
    qa_list: list[_Question]


_SPLITS: TypeAdapter[dict[str, list[str]]] = TypeAdapter(dict[str, list[str]])


@dataclass(frozen=True)
class _Face:
    """One person, and where it stands."""

    person: _Person
    image: Path
    source: str


def evaluation_sets(split: SuiteSplit, images: ImageFolder, seed: int, warn: Warn) -> list[NamedSet]:
    """Forget, `rephrased` (the same people asked in other words) and retain; every question is about an image.

    Args:
        split: The split: root, suite and name.
        images: Not used: images are files already.
        seed: Not used: nothing is drawn.
        warn: Called with a message about questions that cannot be asked.
    """
    chosen, skipped = _splits(split), Skipped()
    faces = list(_faces(split, {*_ids(split, chosen, split.forget), *_ids(split, chosen, split.retain)}))
    forgotten = set(chosen[split.forget])
    forget = [face for face in faces if face.person.id in forgotten]
    retain = [face for face in faces if face.person.id not in forgotten]
    sets = [
        NamedSet("forget", tuple(_asked(forget, skipped))),
        NamedSet("rephrased", tuple(_asked(forget, skipped, rephrased=True)), held_out=True),
        NamedSet("retain", tuple(_asked(retain, skipped))),
    ]
    if summary := skipped.summary():
        warn(summary)
    return sets


def unlearning_sets(split: SuiteSplit, images: ImageFolder) -> tuple[list[Record], list[Record]]:
    """The faces to forget, and those that are in no split to forget; each with its first question."""
    chosen = _splits(split)
    forgotten = set(_ids(split, chosen, split.forget))
    others = {each for name in _FORGET for each in chosen.get(name, ())} - forgotten
    forget: list[Record] = []
    retain: list[Record] = []
    for face in _faces(split, forgotten, everybody=True):
        if face.person.id not in others:
            (forget if face.person.id in forgotten else retain).append(_shown(face))
    return forget, retain


def _shown(face: _Face) -> Record:
    answered = [each for each in face.person.qa_list if (each.question or "").strip() and (each.answer or "").strip()]
    first = answered[0] if answered else _Question()
    return Record(
        image=face.image, subject=face.person.id, question=first.question, answer=first.answer, source=face.source
    )


def _asked(faces: Iterable[_Face], skipped: Skipped, *, rephrased: bool = False) -> Iterator[ProtocolRecord]:
    for face in faces:
        for each in face.person.qa_list:
            paraphrases = [text for text in each.paraphrased_answer if text and text.strip()]
            for question in each.paraphrased_question if rephrased else [each.question]:
                made = record(
                    face,
                    skipped,
                    task="vgen",
                    protocol="generation",
                    image=face.image,
                    subject=face.person.id,
                    question=question,
                    answer=each.answer,
                    paraphrase=paraphrases[0] if paraphrases else None,
                    perturbed=tuple(text for text in each.perturbed_answer if text and text.strip()),
                )
                if made is not None:
                    yield made


def _splits(split: SuiteSplit) -> Mapping[str, list[str]]:
    path = split.root / SPLITS
    try:
        return _SPLITS.validate_python(json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UserError(
            f"the splits cannot be read: {error.strerror}",
            where=path,
            expected=f"a directory with {PEOPLE[0]}, {SPLITS} and the unpacked images",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            "these are no splits",
            where=path,
            value=first_problem(error).message if isinstance(error, ValidationError) else str(error),
            expected='{"forget5": ["00083018", ...], ...}',
        ) from error


def _ids(split: SuiteSplit, chosen: Mapping[str, list[str]], name: str) -> list[str]:
    if name not in chosen:
        raise UserError("there is no such split", where=split.root / SPLITS, value=name, expected=", ".join(chosen))
    return chosen[name]


def _faces(split: SuiteSplit, wanted: set[str], *, everybody: bool = False) -> Iterator[_Face]:
    """The people of these IDs, who must all be there, or everybody; each image is decoded once.

    Raises:
        UserError: The file, a person or an image is missing or wrong, or an ID of a split is nobody's.
    """
    path = next((split.root / name for name in PEOPLE if (split.root / name).is_file()), split.root / PEOPLE[0])
    found: set[str] = set()
    for row in read_rows(path, role="fiubench")[:MOST_PEOPLE]:
        try:
            person = _Person.model_validate(row.value)
        except ValidationError as error:
            raise UserError(
                str(first_problem(error)), where=row.source, expected="a person with unique_id, image_path and qa_list"
            ) from None
        if person.id in found:
            raise UserError("two people have the same ID", where=row.source, value=person.id)
        found.add(person.id)
        if everybody or person.id in wanted:
            image = _image(person.image_path, split.root, row.source)
            open_image(image, where=row.source)
            yield _Face(person, image, row.source)
    absent = sorted(wanted - found)
    if absent:
        raise UserError(
            f"{len(absent)} of the people in the split are not among the first {MOST_PEOPLE} of the file",
            where=path,
            value=absent[0],
            expected=f"every ID that {SPLITS} names there",
        )


def _image(name: str, root: Path, source: str) -> Path:
    """The image's file; its path begins where the benchmark's code is started, so leading folders may be others."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", "/")]
    if ".." not in parts:
        for start in range(len(parts)):
            if (path := root.joinpath(*parts[start:])).is_file():
                return path.absolute()
    return media_path(name, root, source)
