"""What the language model is asked during the decoder pass: questions about pictures, and plain prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.data.record import Record
from vkdsurgeon.model.questions import Question

# Asked of pictures that came without questions: who it is, what belongs to who it is, and what does not.
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


def questions_about(pictures: Sequence[Picture], records: Sequence[Record]) -> list[list[Question]]:
    """The questions about each picture.

    Args:
        pictures: The pictures that take part.
        records: The records they came from; what these ask of a picture is asked, the built-in questions elsewhere.

    Returns:
        Per picture, in order, at least one question.
    """
    asked: dict[Path, dict[str, None]] = {}
    for record in records:
        if record.image is not None and record.question is not None:
            asked.setdefault(record.image, {})[record.question] = None
    return [
        [
            Question(question, picture.path, picture.source)
            for question in asked.get(picture.path, dict.fromkeys(QUESTIONS))
        ]
        for picture in pictures
    ]
