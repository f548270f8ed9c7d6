"""Records of a benchmark: asked in the benchmark's way and measured by its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from vkdsurgeon.data.record import Record

_METRICS = {
    "choice": ("accuracy", "likelihood", "probability", "truth_ratio"),
    "cloze": ("cloze",),
    "generation": ("rouge1", "rouge2", "rouge_l", "rouge_l_recall", "bleu", "probability"),
}

BLANK = "[Blank]"
# LLaVA-1.5 was tuned on this sentence (arXiv 2310.03744, table of response formats); other models follow it.
_LETTER = "Answer with the option's letter from the given choices directly."
_CLOZE = f"Reply only with what belongs in place of {BLANK}."
_SENTENCE = "Answer in one sentence."


class Shot(BaseModel):
    """One demonstration that precedes a question: what is asked, with its answer.

    Attributes:
        image: Absolute path of its image; None for text.
        question: As the model reads it.
        answer: As the model should have answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Path | None = None
    question: str
    answer: str


class ProtocolRecord(Record):
    """A question with the protocol by which it is asked.

    Attributes:
        protocol: `choice` (lettered options), `cloze` (a blank to fill) or `generation` (a sentence).
        letters: Labels of `options`, in their order; `choice` only.
        right: Index of the right option; `choice` only.
        paraphrase: The right answer in other words, where the truth ratio is to be taken on it.
        perturbed: Wrong answers of the same form, for the truth ratio of a generation.
        shots: Demonstrations before the question.
    """

    protocol: Literal["choice", "cloze", "generation"]
    letters: tuple[str, ...] = ()
    right: int = 0
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    shots: tuple[Shot, ...] = ()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that this record counts in."""
        names = _METRICS[self.protocol]
        if self.protocol == "generation" and self.perturbed:
            return (*names, "truth_ratio")
        # Options that stand there twice cannot be told apart by their likelihood.
        return names if len(set(self.options)) == len(self.options) else ("accuracy",)

    @model_validator(mode="after")
    def _complete(self) -> ProtocolRecord:
        if self.question is None or self.answer is None:
            raise ValueError("a question and its answer are needed")
        if (self.protocol == "choice") != bool(self.options):
            raise ValueError("options belong to a choice, and to nothing else")
        return self

    def _check_options(self) -> None:
        # Published benchmarks hold options twice; a letter tells them apart all the same.
        if len(self.options) < 2:
            raise ValueError("one option alone is no choice")
        if len(self.letters) != len(self.options) or len(set(self.letters)) != len(self.letters):
            raise ValueError("options and letters do not belong together")
        if not 0 <= self.right < len(self.options) or self.options[self.right] != self.answer:
            raise ValueError("the right answer is not among the options")


def wording(record: ProtocolRecord) -> str:
    """A record's question as the model reads it."""
    question = record.question or ""
    if record.protocol == "choice":
        lines = [f"{letter}: {option}" for letter, option in zip(record.letters, record.options, strict=True)]
        return "\n".join([question, *lines, _LETTER])
    if record.protocol == "cloze":
        return f"{question.replace('__', BLANK)}\n{_CLOZE}"
    return f"{question}\n{_SENTENCE}"


def expected(record: ProtocolRecord) -> str:
    """The right answer to `wording`: the letter of the option, or the answer itself."""
    return record.letters[record.right] if record.protocol == "choice" else record.answer or ""
