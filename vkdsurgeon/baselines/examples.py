"""Questions with their answers, as training examples for the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vkdsurgeon.data.read import require_answers
from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.questions import Question


@dataclass(frozen=True)
class QAExample(Question):
    """One question and the answer that is taught or untaught."""

    answer: str


@dataclass(frozen=True)
class TrainingSets:
    """The training sets of a method.

    Attributes:
        forget: Questions about images whose answers are to be forgotten.
        retain: Questions to answer as before; may be empty for methods that do not need any.
        text: Questions without images, for masks and neuron importance alone.
        passed_over: Records of the forget set that ask for nothing that is to be forgotten.
    """

    forget: tuple[QAExample, ...]
    retain: tuple[QAExample, ...]
    text: tuple[QAExample, ...]
    passed_over: int


def training_sets(forget: Sequence[Record], retain: Sequence[Record], text: Sequence[Record]) -> TrainingSets:
    """Turn records into examples.

    Args:
        forget: The forget set. Tasks `general.*` and `text.*` are passed over: what else is to be seen on the images,
            and what text says, are not to be forgotten.
        retain: The retain set.
        text: Questions without images.

    Raises:
        UserError: A record has no question or no answer, or nothing is left to forget.
    """
    for role, records in (("forget", forget), ("retain", retain), ("text", text)):
        _require(records, role)
    targets = [record for record in forget if to_forget(record)]
    if not targets:
        raise UserError(
            "the forget set holds nothing that can be forgotten",
            where=forget[0].source if forget else None,
            expected="questions about images in tasks other than general.* and text.*",
        )
    return TrainingSets(
        forget=tuple(map(_example, targets)),
        retain=tuple(map(_example, retain)),
        text=tuple(map(_example, text)),
        passed_over=len(forget) - len(targets),
    )


def _require(records: Sequence[Record], role: str) -> None:
    try:
        require_answers(records, role=role)
    except UserError as error:
        raise UserError(
            error.what,
            where=error.where,
            expected="a question and its answer in every record: methods other than feature-mode vkd train on what "
            "the language model answers",
            remedy="give records with questions and answers, or use --method vkd, which needs images alone",
        ) from None


def _example(record: Record) -> QAExample:
    return QAExample(str(record.question), record.image, record.source, str(record.answer))
