"""Scores that should be higher on records that a model was trained on.

- Loss: arXiv 1709.01604; the mean log-probability, which is minus the loss.
- Min-K% Prob: arXiv 2310.16789, equation 1; the mean over the k % least likely tokens.
- Min-K%++: arXiv 2404.02936, equation 3; the same, each log-probability standardised by mean and deviation of the
  log-probabilities of all tokens that could stand there.
- zlib: arXiv 2012.07805, section 4.2; the log-probability per byte that the answer's text takes compressed, so that a
  plain text does not pass for a known one.
- Gradient norm: arXiv 2402.17012; minus the norm of the loss' gradient.

All are taken over the answer's tokens, given image and question. All but the last need likelihoods alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# What is certain has no deviation.
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens of one answer.

    Attributes:
        text: The answer.
        log_probabilities: Of each token, in nats.
        standardised: The same minus the mean over the vocabulary, over the deviation.
        gradient_norm: Norm of the gradient of the loss; NaN where it was not measured.
    """

    text: str
    log_probabilities: tuple[float, ...]
    standardised: tuple[float, ...]
    gradient_norm: float = math.nan


def answer_tokens(text: str, rows: Sequence[Sequence[float]]) -> AnswerTokens:
    """From log-probability, its mean and its standard deviation over the vocabulary, of each token."""
    standardised = tuple((value - mean) / max(deviation, _LEAST_DEVIATION) for value, mean, deviation in rows)
    return AnswerTokens(text, tuple(row[0] for row in rows), standardised)


def min_k(values: Sequence[float], k_percent: float) -> float:
    """Mean of the k % smallest values, at least one."""
    count = max(1, math.floor(len(values) * k_percent / 100.0))
    return sum(sorted(values)[:count]) / count


def _zlib(answer: AnswerTokens, k_percent: float) -> float:
    return sum(answer.log_probabilities) / len(zlib.compress(answer.text.encode()))


GRADIENT = "grad_norm"
SCORES: dict[str, Callable[[AnswerTokens, float], float]] = {
    "loss": lambda answer, _: min_k(answer.log_probabilities, 100.0),
    "min_k": lambda answer, k_percent: min_k(answer.log_probabilities, k_percent),
    "min_k_plus": lambda answer, k_percent: min_k(answer.standardised, k_percent),
    "zlib": _zlib,
    GRADIENT: lambda answer, _: -answer.gradient_norm,
}
"""Name in metric ids -> score, given the answer and the k of Min-K%."""
