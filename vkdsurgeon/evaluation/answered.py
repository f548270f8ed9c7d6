"""How answers are obtained, and what one answer is."""

from __future__ import annotations

from dataclasses import dataclass, field

from vkdsurgeon.data.record import Record


@dataclass(frozen=True)
class Scoring:
    """The settings for obtaining answers.

    Attributes:
        batch_size: Sequences per forward pass.
        length_normalised: Divide the log-likelihood of an option by its number of tokens.
        max_new_tokens: Bound on a generated answer.
    """

    batch_size: int = 32
    length_normalised: bool = False
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Answered:
    """One record and what became of it.

    Attributes:
        record: What was asked.
        values: Metric name -> value of this record, see `metrics.metric_names`.
        said: The option chosen, or the text generated; from a cache, a salted digest of it.
        log_likelihoods: Natural logarithm per option, as compared; empty without options.
        truth_ratio: Likelihood per token of wrong answers over that of the right one, where it was taken.
        silent: Whether a generated answer is empty. None if nothing was generated, or if the model's logits were not
            finite.
    """

    record: Record
    values: dict[str, float]
    said: str
    log_likelihoods: tuple[float, ...] = field(default=())
    truth_ratio: float | None = None
    silent: bool | None = None
