"""The text retain set: prompts on which the language model must go on as before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

# Fewer distinct prompts cannot be halved.
FEWEST = 2
BUILT_IN = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "How many days are in a week?",
    "Explain in one sentence why the sky is blue.",
    "Write a short poem about the sea.",
    "Translate 'good morning' into Spanish.",
    "What is 12 times 7?",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
    "Who was the first person on the Moon?",
    "What does a baker do at work?",
    "In which city is the Eiffel Tower?",
    "List the planets of the solar system.",
    "Summarise the water cycle in two sentences.",
    "What is the difference between a virus and a bacterium?",
    "Write a Python function that adds two numbers.",
    "Which language is spoken in Brazil?",
    "What should I pack for a week in the mountains?",
    "Tell me about the painter Vincent van Gogh.",
    "Name a famous composer and one of their works.",
    "What is photosynthesis?",
    "How do I politely decline an invitation?",
    "Finish the sentence: Once upon a time",
    "What is the largest ocean on Earth?",
    "Why do we have seasons?",
    "Give two arguments for and two against working from home.",
    "What is the opposite of 'cold'?",
    "Who discovered penicillin?",
    "Suggest a hobby for someone who likes nature.",
    "What is a prime number?",
    "Describe the taste of a lemon.",
    "How is bread made?",
)


@dataclass(frozen=True)
class TextRetainSet:
    """Distinct prompts, halved at random.

    Attributes:
        train: What W is trained to keep.
        held_out: What the drift is measured on; never trained on.
        built_in: Whether these are the prompts that the package brings along.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    built_in: bool


def read_text_retain_set(path: Path | None, seed: int) -> TextRetainSet:
    """Read the text retain set.

    Args:
        path: Records (JSON lines or a JSON list, with a question each and no image), or plain text with a prompt per
            line; None for the built-in prompts.
        seed: Seed of the halving.

    Raises:
        UserError: The file cannot be read, a record has an image or no question, or fewer than two distinct prompts.
    """
    prompts = list(BUILT_IN) if path is None else _read(path)
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < FEWEST:
        raise UserError(
            "the text retain set is too small to hold out a half of it",
            where=path,
            value=len(distinct),
            expected="at least two different prompts, better dozens",
        )
    random.Random(seed).shuffle(distinct)
    half = (len(distinct) + 1) // 2
    return TextRetainSet(tuple(distinct[:half]), tuple(distinct[half:]), path is None)


def _read(path: Path) -> Sequence[str]:
    if path.is_dir():
        raise UserError("the text retain set is a folder", where=path, expected="a file of records or of plain prompts")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise machine_or(
            UserError(f"the text retain set cannot be read: {error.strerror}", where=path), error
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} of the text retain set is not UTF-8", where=path, remedy="save it as UTF-8"
        ) from error
    if not text.lstrip().startswith(("{", "[")):
        return [line.strip() for line in text.split("\n") if line.strip()]
    prompts = []
    for record in read_records(path, role="text"):
        if record.media is not None or record.question is None:
            raise UserError(
                "a record of the text retain set " + ("has an image" if record.media else "has no question"),
                where=record.source,
                expected="questions without images",
                remedy="put images to keep into `retain`",
            )
        prompts.append(record.question)
    return prompts
