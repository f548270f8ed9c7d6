"""One record: what a forget, retain or text set is made of."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A picture, a question about it, or both.

    Attributes:
        image: Absolute path of the picture; None for a text-only question.
        question: What is asked; None where the picture alone is enough (feature mode).
        answer: The right answer.
        options: Closed list of answers to choose from; empty for free generation.
        subject: Who or what is to be seen; groups forget pictures and results.
        task: Dotted name that results are grouped by, such as `vqa.name`; every prefix is a group of its own.
        source: `file:line` of where the record was read, for messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Path | None = None
    question: str | None = None
    answer: str | None = None
    options: tuple[str, ...] = ()
    subject: str | None = None
    task: str = "vqa"
    source: str = "<memory>"
