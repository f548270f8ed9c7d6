"""Forgetting and retention by what the whole model answers to given validation records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.score import Answered, Scoring, answer_records
from vkdsurgeon.evaluation.silence import without_silence
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.model.vision import VisualStack


@dataclass(frozen=True)
class ValidationRecords:
    """Questions with answers, about held-out images.

    Attributes:
        forget: About what is to be forgotten; `general` tasks among them are to be kept.
        retain: About what is to be kept.
    """

    forget: tuple[Record, ...]
    retain: tuple[Record, ...]

    @property
    def chance(self) -> float:
        """Rate of right answers about what is to be forgotten that guessing among the options gives; 0 without any."""
        asked = [record for record in self.forget if to_forget(record)]
        return sum(1 / len(record.options) for record in asked if record.options) / max(len(asked), 1)

    def check(self) -> None:
        """Refuse records that say nothing about forgetting or retention.

        Raises:
            UserError: No record asks for what is to be forgotten.
        """
        if not any(map(to_forget, self.forget)):
            raise UserError(
                "no validation record asks for what is to be forgotten",
                where="`validation_forget`",
                expected="questions about images in tasks other than general.* and text.*",
            )


class Answers:
    """The whole model, asked with the visual weights of a student in place of its own.

    Args:
        model: The checkpoint directory.
        records: What is asked.
        device: Where the model runs.
        dtype: What it is held in, as in `evaluation.model.load_model`.
        batch_size: Sequences at once.
    """

    def __init__(self, model: Path, records: ValidationRecords, *, device: str, dtype: str, batch_size: int = 32):
        self._records = records
        self._loaded = load_model(model, device=device, dtype=dtype)
        self._scoring = Scoring(batch_size=batch_size)
        self.before = self._ask()

    def __call__(self, stack: VisualStack) -> tuple[float, float, dict[str, float]]:
        """Measure the whole model on the validation questions.

        Returns:
            The rate of right answers to what is to be forgotten; the loss in the rate on kept records plus, where
            there are general questions about forget images, the loss there; the rates by name. Rates are accuracies,
            ROUGE-L for records without options.
        """
        own = dict(self._loaded.model.named_parameters())
        with torch.no_grad():
            for name, value in stack.visual_parameters().items():
                own[name].copy_(value)
        rates = self._ask()
        lost = sum(self.before[name] - rate for name, rate in rates.items() if name != "forget_rate")
        return rates["forget_rate"], lost, rates

    def _ask(self) -> dict[str, float]:
        forget = [record for record in self._records.forget if to_forget(record)]
        general = [record for record in self._records.forget if record.media is not None and not to_forget(record)]
        parts: dict[str, Sequence[Record]] = {
            "forget_rate": forget,
            "retain_rate": self._records.retain,
            "general_rate": general,
        }
        said = {
            name: answer_records(self._loaded, records, self._scoring) for name, records in parts.items() if records
        }
        # A trial that leaves a model without words has not forgotten best: it fails.
        return {name: _rate(answers) for name, answers in without_silence(said).items()}


def _rate(answers: Sequence[Answered]) -> float:
    return fmean(answer.values.get("accuracy", answer.values.get("rouge_l", 0.0)) for answer in answers)
