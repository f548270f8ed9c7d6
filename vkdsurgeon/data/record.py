"""One record: what a forget, retain or text set is made of."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from vkdsurgeon.data.modality import CLIP_SUFFIXES, modality_of

_TASK = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# On the forget set, too, these are to be kept: what an image shows besides the subject, and what text says.
_KEPT = frozenset({"general", "text"})


class Record(BaseModel):
    """An image or a clip of sound, a question about it, or both.

    Attributes:
        image: Absolute path of the image; None for a clip and for a text-only question.
        audio: Absolute path of the clip, whose name ends as those of clips do; None for an image and for text.
        question: What is asked; None where the image or clip alone is enough (feature mode).
        answer: The right answer.
        options: Closed list of answers to choose from; empty for free generation.
        subject: Who or what is to be seen or heard; groups forget images and results.
        task: Dotted name that results are grouped by, such as `vqa.name`; every prefix is a group of its own.
        source: `file:line` of where the record was read, for messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Path | None = None
    audio: Path | None = None
    question: str | None = None
    answer: str | None = None
    options: tuple[str, ...] = ()
    subject: str | None = None
    task: str = "vqa"
    source: str = "<memory>"

    @field_validator("subject")
    @classmethod
    def _spelt_one_way(cls, subject: str | None) -> str | None:
        # Accents have two spellings, and file systems choose either: one person must not become two.
        return None if subject is None else unicodedata.normalize("NFC", subject)

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        for name in ("question", "answer", "subject"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"the {name} is blank")
        if not _TASK.fullmatch(self.task):
            raise ValueError(f"the task {self.task!r} is not a dotted name such as vqa.name")
        if self.answer is not None and self.question is None:
            raise ValueError("there is an answer and no question")
        if self.image is not None and self.audio is not None:
            raise ValueError("there are an image and a clip; give each a record of its own")
        if self.audio is not None and modality_of(self.audio) != "audio":
            raise ValueError(f"the clip {self.audio.name!r} ends in none of {', '.join(sorted(CLIP_SUFFIXES))}")
        if self.image is not None and modality_of(self.image) == "audio":
            raise ValueError(f"{self.image.name!r} is no image: give a clip as `audio`")
        if self.options:
            self._check_options()
        return self

    @property
    def media(self) -> Path | None:
        """The image or the clip; None for a text-only question."""
        return self.image or self.audio

    def _check_options(self) -> None:
        if len(self.options) < 2:
            raise ValueError("one option alone is no choice")
        if any(not option.strip() for option in self.options):
            raise ValueError("an option is blank")
        if len(set(self.options)) != len(self.options):
            raise ValueError("an option stands there twice")
        if self.question is None or self.answer is None:
            raise ValueError("there are options, so a question and an answer are needed")
        if self.answer not in self.options:
            raise ValueError(f"the answer {self.answer!r} is not among the options {list(self.options)}")


def groups_of(task: str) -> list[str]:
    """A dotted task and every prefix of it, shortest first."""
    parts = task.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def to_forget(record: Record) -> bool:
    """Whether a record of a forget set asks for what is to be forgotten: about an image or clip, in no `general`
    task."""
    return record.media is not None and record.task.split(".")[0] not in _KEPT
