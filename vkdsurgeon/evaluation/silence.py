"""Detection of models that generate nothing: they are broken, and their forget metrics mean nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vkdsurgeon.evaluation.answered import Answered

# Metrics of generated answers that do not look at what was said.
OF_LIKELIHOODS = frozenset({"likelihood", "probability", "truth_ratio"})


def without_silence(answers: Mapping[str, Sequence[Answered]]) -> dict[str, list[Answered]]:
    """Take the numbers away from generated answers, where a model left every one of them empty.

    Silence about what is to be forgotten alone may be forgetting: one word on anything else tells the two apart.

    Args:
        answers: All answers of one model in one state, by set.

    Returns:
        The same, or with NaN for what was read from empty answers.
    """
    asked = [answer.silent for each in answers.values() for answer in each if answer.silent is not None]
    if not asked or not all(asked):
        return {name: list(each) for name, each in answers.items()}
    return {name: [_unmeasured(answer) for answer in each] for name, each in answers.items()}


def _unmeasured(answer: Answered) -> Answered:
    if answer.silent is None:
        return answer
    # What stands on likelihoods was measured, whatever was said.
    return replace(
        answer,
        values={name: value if name in OF_LIKELIHOODS else math.nan for name, value in answer.values.items()},
    )
