"""The protocols of the benchmarks: a letter, a blank, a sentence; and the likelihood of right and wrong answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vkdsurgeon.data.protocol import ProtocolRecord, wording
from vkdsurgeon.evaluation.answered import Answered, Scoring
from vkdsurgeon.evaluation.silence import OF_LIKELIHOODS
from vkdsurgeon.evaluation.text import generation_values
from vkdsurgeon.model.batches import tokens_request
from vkdsurgeon.model.fewshot import prompt_with_shots
from vkdsurgeon.model.generation import say
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prefix_cache import read_log_probabilities

# A letter, and what some models say before it: blanks, a bracket, a new line.
_LETTER_TOKENS = 8


def answer_protocols(
    loaded: LoadedModel, records: Mapping[int, ProtocolRecord], scoring: Scoring
) -> dict[int, Answered]:
    """Ask records of a benchmark.

    A choice is generated and its first character, upper-cased, must be the letter of the right option (MLLMU-Bench,
    arXiv 2410.22108); beside it stands which option is likeliest behind the bare question. A cloze answer must hold the
    truth, both lower-cased. A generation is compared by ROUGE and BLEU. `probability` is exp(-mean loss) of the right
    answer. With R = exp(mean over wrong answers of their mean log-probability, minus that of the right one or its
    paraphrase) the truth ratio is max(0, 1 - R) (TOFU, arXiv 2401.06121; CLEAR, arXiv 2410.18057): 1 where only the
    right answer is likely, 0 where it is no likelier than wrong ones.

    Args:
        loaded: The model.
        records: Key -> record.
        scoring: How; a letter is never given more than eight tokens.
    """
    if not records:
        return {}
    prompts = {key: prompt_with_shots(loaded.encoder, record, wording(record)) for key, record in records.items()}
    short = {key: prompt for key, prompt in prompts.items() if records[key].protocol == "choice"}
    long = {key: prompt for key, prompt in prompts.items() if key not in short}
    said = say(loaded, short, scoring.batch_size, min(scoring.max_new_tokens, _LETTER_TOKENS))
    said |= say(loaded, long, scoring.batch_size, scoring.max_new_tokens)
    means = _mean_log_probabilities(loaded, records, scoring.batch_size)
    return {key: _answered(record, said[key], means[key]) for key, record in records.items()}


def _candidates(record: ProtocolRecord) -> list[str]:
    """Texts whose likelihood is read: options as they stand, or the answer, its paraphrase and wrong ones."""
    if record.protocol == "choice":
        return list(record.options) if "likelihood" in record.metric_names else []
    if record.protocol == "cloze":
        return []
    answer = record.answer or ""
    return [answer, record.paraphrase or answer, *record.perturbed] if record.perturbed else [answer]


def _mean_log_probabilities(
    loaded: LoadedModel, records: Mapping[int, ProtocolRecord], batch_size: int
) -> dict[int, list[float]]:
    owners, requests = [], []
    for key, record in records.items():
        candidates = _candidates(record)
        if candidates:
            bare = loaded.encoder.prompt(record.question or "", record.media, record.source)
            owners += [key] * len(candidates)
            requests += [tokens_request(bare, loaded.encoder.continuation(bare, text)) for text in candidates]
    means: dict[int, list[float]] = {key: [] for key in records}
    for key, values in zip(owners, read_log_probabilities(loaded, requests, batch_size), strict=True):
        means[key].append(float(values[:, 0].double().mean()))
    return means


def _answered(record: ProtocolRecord, said: str | None, means: Sequence[float]) -> Answered:
    if record.protocol == "choice":
        found = _chosen(record, said or "", means)
    elif record.protocol == "cloze":
        found = Answered(record, {"cloze": float((record.answer or "").lower() in (said or "").lower())}, said or "")
    else:
        found = _generated(record, said or "", means)
    if said is None:
        # Nothing was said that could be right or wrong.
        values = {name: value if name in OF_LIKELIHOODS else math.nan for name, value in found.values.items()}
        return replace(found, values=values)
    return replace(found, silent=not said)


def _generated(record: ProtocolRecord, said: str, means: Sequence[float]) -> Answered:
    values = {**generation_values(said, record.answer or ""), "probability": math.exp(means[0])}
    ratio = _ratio(means[1], means[2:]) if record.perturbed else None
    return _with_ratio(record, values, said, means, ratio)


def _chosen(record: ProtocolRecord, said: str, means: Sequence[float]) -> Answered:
    values = {"accuracy": float(said[:1].upper() == record.letters[record.right].upper())}
    if not means:
        return Answered(record, values, said[:1].upper())
    broken = any(math.isnan(mean) for mean in means)
    wrong = [mean for index, mean in enumerate(means) if index != record.right]
    # A tie is no knowledge: to a small vocabulary, options may be one and the same.
    values["likelihood"] = math.nan if broken else float(means[record.right] > max(wrong))
    values["probability"] = math.exp(means[record.right])
    return _with_ratio(record, values, said[:1].upper(), means, _ratio(means[record.right], wrong))


def _with_ratio(
    record: ProtocolRecord, values: dict[str, float], said: str, means: Sequence[float], ratio: float | None
) -> Answered:
    if ratio is not None:
        values["truth_ratio"] = math.nan if math.isnan(ratio) else max(0.0, 1.0 - ratio)
    return Answered(record, values, said, tuple(means), ratio)


def _ratio(right: float, wrong: Sequence[float]) -> float:
    gap = sum(wrong) / len(wrong) - right
    # exp overflows above 709; such a ratio is as good as infinite and JSON holds no infinity.
    return math.nan if math.isnan(gap) else math.exp(min(gap, 700.0))
