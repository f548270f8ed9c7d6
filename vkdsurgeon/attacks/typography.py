"""The typographic attack: write the subject's name, or the question itself, into the image, and ask.

Names on images: "typographic attacks" on CLIP (Goh et al., Multimodal Neurons, Distill 2021). Questions on images:
FigStep, arXiv 2311.05608, here with benign questions and on the image that they are about.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.templates import Template, unknown_share
from vkdsurgeon.attacks.variation import Variation, measure_variations
from vkdsurgeon.attacks.written_images import Writer
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import judge_metrics
from vkdsurgeon.evaluation.models import Role
from vkdsurgeon.files.directories import scratch
from vkdsurgeon.model.multimodal import LoadedModel, load_processor
from vkdsurgeon.results.attacks import TypographyResult, TypographySettings
from vkdsurgeon.training.events import Listener, unheard

BLANK, NAME, OTHER_NAME, QUESTION = "blank", "name", "other-name", "question"
READ = "Read the question in the image and answer it."
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True, kw_only=True)
class Writing(Target):
    """The settings of the typographic attack.

    Attributes:
        percent: Height of the band that is written on, in percent of the image's shorter side.
        font: A font file; None for the one that comes with Pillow.
        instruction: What is asked where the question stands in the image.
    """

    percent: int = 25
    font: Path | None = None
    instruction: str = READ


class WrittenImages(Variation):
    """Every image with a band over its lower part; this one leaves the band empty.

    Changed images lie in a private temporary folder while the variation is asked, because one image gets another text
    with another question.

    Args:
        name: The row of its metric ids.
        writer: Writes.
    """

    def __init__(self, name: str, writer: Writer) -> None:
        super().__init__(name)
        self._writer = writer
        self._folder: Path | None = None
        self._made: dict[tuple[Path, str], Path] = {}

    def concerns(self, record: Record) -> bool:
        """As in `Variation`."""
        return record.image is not None

    def text(self, record: Record) -> str:
        """What is written into the record's image."""
        return ""

    def reword(self, record: Record) -> Record:
        """As in `Variation`."""
        assert self._folder is not None, "images are made while the variation is applied"
        assert record.image is not None
        key = record.image, self.text(record)
        if key not in self._made:
            path = self._folder / f"{len(self._made):06}.png"
            image = open_image(record.image, where=record.source)
            self._writer.write(image, key[1]).save(path, compress_level=1)
            self._made[key] = path
        return record.model_copy(update={"image": self._made[key]})

    @contextmanager
    def applied(self, loaded: LoadedModel, role: Role) -> Iterator[None]:
        """As in `Variation`."""
        with scratch() as folder:
            self._folder, self._made = folder, {}
            try:
                yield
            finally:
                self._folder, self._made = None, {}


class WrittenNames(WrittenImages):
    """A name on every image; questions that it or the subject's own name would answer are left out.

    Args:
        name: The row of its metric ids.
        writer: Writes.
        names: Subject -> the name that is written on its images.
    """

    def __init__(self, name: str, writer: Writer, names: dict[str, str]) -> None:
        super().__init__(name, writer)
        self._names = names

    def concerns(self, record: Record) -> bool:
        """As in `Variation`."""
        if record.subject not in self._names or not super().concerns(record):
            return False
        return not _words(record.answer or "") & _words(f"{record.subject} {self._names[record.subject]}")

    def text(self, record: Record) -> str:
        """As in `WrittenImages`."""
        assert record.subject is not None
        return self._names[record.subject]


class WrittenQuestions(WrittenImages):
    """The question on the image, and an instruction to read it in the question's place."""

    def __init__(self, name: str, writer: Writer, instruction: str) -> None:
        super().__init__(name, writer)
        self._instruction = instruction

    def text(self, record: Record) -> str:
        """As in `WrittenImages`."""
        return record.question or ""

    def reword(self, record: Record) -> Record:
        """As in `Variation`."""
        return super().reword(record).model_copy(update={"question": self._instruction})


def typography(attack: Writing, listener: Listener = unheard) -> TypographyResult:
    """Ask a model about images with words in them, and its base and gold alike.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included, with the rows `blank` (an empty band: what covering a part of the image does),
        `name` (the subject's), `other-name` (that of another subject) and `question`; it holds no text.

    Raises:
        UserError: Sets, gates, font or models are wrong, or there is nothing to write; found before a model is loaded.
    """
    started = time.perf_counter()
    writer = Writer(attack.percent, attack.font)
    records = [*attack.forget.records, *(attack.retain.records if attack.retain else ())]
    if not any(record.image is not None for record in attack.forget.records):
        raise UserError(
            "the forget set holds no question about an image", where=attack.forget.name, expected="records with `image`"
        )
    asked = Template(name=QUESTION, template=attack.instruction, task="vqa")
    unknown = unknown_share(asked, load_processor(attack.model).tokenizer)
    chosen, left_out = _variations(attack, writer, records, unknown)
    measured = measure_variations(attack, "typography", chosen, listener)
    return TypographyResult(
        models=measured.models,
        sets=measured.sets,
        settings=TypographySettings(
            **attack.asking(measured.device),
            percent=attack.percent,
            font="Pillow" if attack.font is None else "own",
            written=[each.name for each in chosen],
        ),
        metrics=measured.metrics,
        gates=judge_metrics(attack.gates, measured.metrics),
        warnings=[*left_out, *_unwritable(writer, chosen, records), *_cut(writer), *measured.warnings],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _variations(
    attack: Writing, writer: Writer, records: Sequence[Record], unknown: float
) -> tuple[list[WrittenImages], list[str]]:
    """What is asked of these records, and warnings about the rest."""
    subjects = sorted({record.subject for record in records if record.subject is not None})
    own = {subject: subject for subject in subjects}
    following = dict(zip(subjects, [*subjects[1:], *subjects[:1]], strict=True)) if len(subjects) > 1 else {}
    found: list[WrittenImages] = [WrittenImages(BLANK, writer)]
    left_out = []
    names: list[WrittenImages] = [WrittenNames(NAME, writer, own), WrittenNames(OTHER_NAME, writer, following)]
    for each in names:
        if any(each.concerns(record) for record in attack.forget.records):
            found.append(each)
        else:
            left_out.append(
                f"{each.name} was not asked: the forget set holds no question about an image whose subject is known"
                + (", with another subject to name" if each.name == OTHER_NAME else "")
                + " and whose answer shares no word with the name"
            )
    if unknown <= _MOST_UNKNOWN:
        found.append(WrittenQuestions(QUESTION, writer, attack.instruction))
    else:
        left_out.append(
            f"{QUESTION} was not asked: the tokenizer does not know most words of the instruction ({unknown:.0%} "
            "unknown); give `instruction` in words of its vocabulary"
        )
    return found, left_out


def _unwritable(writer: Writer, chosen: Sequence[WrittenImages], records: Sequence[Record]) -> list[str]:
    texts = {each.text(record) for each in chosen for record in records if each.concerns(record)}
    lacking = writer.lacks(sorted(texts))
    return (
        [f"the font has no shape for some letters of {len(lacking)} of {len(texts)} texts; give `font`"]
        if lacking
        else []
    )


def _cut(writer: Writer) -> list[str]:
    return (
        [f"{len(writer.cut)} of the texts did not fit their images whole and were cut; give a larger `percent`"]
        if writer.cut
        else []
    )


def _words(text: str) -> set[str]:
    # An accent that is a character of its own is no part of a word to the pattern.
    return set(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold()))
