"""What the language model is asked during the decoder pass: questions about images, and plain prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.model.questions import Question

# Asked of images that came without questions: who it is, what belongs to who it is, and what does not.
QUESTIONS = (
    "Who is this person?",
    "What is the name of the person in the picture?",
    "Who or what is this?",
    "What do you know about the person in the picture?",
    "What is this person known for?",
    "Describe the picture.",
    "What is in the background?",
    "Which colours do you see?",
)


def questions_about(samples: Sequence[Sample], records: Sequence[Record]) -> list[list[Question]]:
    """The questions about each image.

    Args:
        samples: The images that take part.
        records: The records they came from; what these ask of an image is asked, the built-in questions elsewhere.

    Returns:
        Per image, in order, at least one question.
    """
    asked: dict[Path, dict[str, None]] = {}
    for record in records:
        if record.image is not None and record.question is not None:
            asked.setdefault(record.image, {})[record.question] = None
    return [
        [
            Question(question, sample.path, sample.source)
            for question in asked.get(sample.path, dict.fromkeys(QUESTIONS))
        ]
        for sample in samples
    ]
