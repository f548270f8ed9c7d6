"""Similarity of a generated answer to the right one."""

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


def generation_values(said: str, answer: str) -> dict[str, float]:
    """Compare a generated sentence with the right one, as MLLMU-Bench and CLEAR do.

    Returns:
        `rouge1`, `rouge2`, `rouge_l`: F-measures with stemming; `rouge_l_recall`: recall of the same; `bleu`: sentence
        BLEU over words parted by blanks, smoothed by method 1 of Chen and Cherry (2014). All from 0 to 1.
    """
    scores = _rouge().score(answer, said)
    return {
        "rouge1": float(scores["rouge1"].fmeasure),
        "rouge2": float(scores["rouge2"].fmeasure),
        "rouge_l": float(scores["rougeL"].fmeasure),
        "rouge_l_recall": float(scores["rougeL"].recall),
        "bleu": _bleu(said.split(), answer.split()),
    }


def _bleu(said: list[str], answer: list[str]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return float(sentence_bleu([answer], said, smoothing_function=SmoothingFunction().method1)) if said else 0.0


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
