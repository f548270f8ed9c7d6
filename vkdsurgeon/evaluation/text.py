"""How near a generated answer comes to the right one."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

TEXT_METRICS = ("exact", "contains", "rouge_l")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus blanks."""
    lowered = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(" " if unicodedata.category(letter)[0] in "PS" else letter for letter in lowered)
    return " ".join(_ARTICLES.sub(" ", words).split())


def text_values(said: str, answer: str) -> dict[str, float]:
    """Compare a generated answer with the right one.

    Returns:
        `exact`: equal after normalisation; `contains`: the answer's words stand in it in a row; `rouge_l`: F-measure of
        the longest common subsequence of stemmed words. All from 0 to 1.
    """
    given, right = normalise(said), normalise(answer)
    return {
        "exact": float(given == right),
        "contains": float(f" {right} " in f" {given} "),
        "rouge_l": float(_rouge().score(answer, said)["rougeL"].fmeasure),
    }


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
