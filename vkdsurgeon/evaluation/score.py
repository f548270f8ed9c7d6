"""What a model answers: the likelihood of options, or greedy text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from vkdsurgeon.data.protocol import ProtocolRecord
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.answered import Answered, Scoring
from vkdsurgeon.evaluation.cache import ModelCache
from vkdsurgeon.evaluation.protocols import answer_protocols
from vkdsurgeon.evaluation.text import text_values
from vkdsurgeon.files.library_errors import blaming, brief
from vkdsurgeon.model.batches import Request, tokens_request
from vkdsurgeon.model.device import enough_memory
from vkdsurgeon.model.generation import say
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prefix_cache import read_log_probabilities
from vkdsurgeon.model.prompts import Encoder, Prompt
from vkdsurgeon.training.events import Event, Listener, unheard

__all__ = ["Answered", "Scoring", "answer_records", "encode"]

# Encoded images of so many batches are held at once.
_BATCHES_AT_ONCE = 16


def answer_records(
    loaded: LoadedModel,
    records: Sequence[Record],
    scoring: Scoring,
    listener: Listener = unheard,
    cache: ModelCache | None = None,
) -> list[Answered]:
    """Ask a model every question of a set.

    Records with options are decided by the likelihood of the options given the prompt, the others by greedy generation,
    records of a benchmark by its own protocol. Batches hold prompts of equal shape only, so nothing is padded and an
    answer does not depend on its neighbours.

    Args:
        loaded: The model.
        records: Records with a question and an answer each.
        scoring: The settings for obtaining answers.
        listener: Hears, after every chunk, how many are `done` of the `total`.
        cache: Chunks that it holds are not asked again; others are put into it.

    Returns:
        One answer per record, in the order of the records.

    Raises:
        UserError: An image, a question or its options do not suit the model.
    """
    answers: dict[int, Answered] = {}
    # Neighbours share images, so that each is decoded once.
    order = sorted(range(len(records)), key=lambda index: (str(records[index].media or ""), index))
    chunk = scoring.batch_size * _BATCHES_AT_ONCE
    # Not inference mode: what is fetched from elsewhere in it could not be trained afterwards.
    with torch.no_grad():
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            loaded.encoder.drop_media()
            known = None if cache is None else cache.find([records[index] for index in part])
            if known is None:
                known = _fresh(loaded, {index: records[index] for index in part}, scoring)
                if cache is not None:
                    known = cache.keep(known)
            answers |= zip(part, known, strict=True)
            done = start + len(part)
            text = f"answered {done} of {len(records)} questions"
            listener(Event("answers", text, {"done": done, "total": len(records)}))
    loaded.encoder.drop_media()
    return [answers[index] for index in range(len(records))]


def encode(encoder: Encoder, record: Record) -> Prompt:
    """The prompt of a record that has a question."""
    assert record.question is not None
    return encoder.prompt(record.question, record.media, record.source)


def _fresh(loaded: LoadedModel, records: Mapping[int, Record], scoring: Scoring) -> list[Answered]:
    def refused(error: BaseException) -> UserError:
        return UserError(
            f"the model cannot take what its processor makes: {brief(error)}",
            where=loaded.root,
            expected="the processor's files and config.json to belong to one checkpoint",
            remedy="restore them from the original checkpoint",
        )

    short = f" for {scoring.batch_size} sequences at once; use a smaller `batch_size`"
    with enough_memory(short), blaming(loaded.root, refused):
        answers = _answer(loaded, records, scoring)
    return [answers[index] for index in records]


def _answer(loaded: LoadedModel, records: Mapping[int, Record], scoring: Scoring) -> dict[int, Answered]:
    special = {i: record for i, record in records.items() if isinstance(record, ProtocolRecord)}
    prompts = {i: encode(loaded.encoder, record) for i, record in records.items() if i not in special}
    closed = {i: (records[i], prompt) for i, prompt in prompts.items() if records[i].options}
    free = {i: (records[i], prompt) for i, prompt in prompts.items() if not records[i].options}
    plain = _choose(loaded, closed, scoring) | _generate(loaded, free, scoring)
    return plain | answer_protocols(loaded, special, scoring)


def _choose(loaded: LoadedModel, asked: Mapping[int, tuple[Record, Prompt]], scoring: Scoring) -> dict[int, Answered]:
    tokens = {index: _option_tokens(loaded.encoder, *pair) for index, pair in asked.items()}
    requests: list[tuple[int, int, Request]] = []
    for index, (_, prompt) in asked.items():
        if all(len(ids) == 1 for ids in tokens[index]):
            # One forward pass of the prompt scores all options at once.
            requests.append((index, 0, Request(prompt, (), (tuple(ids[0] for ids in tokens[index]),))))
        else:
            requests += [(index, option, tokens_request(prompt, ids)) for option, ids in enumerate(tokens[index])]
    scores: dict[int, list[float]] = {index: [math.nan] * len(ids) for index, ids in tokens.items()}
    read = read_log_probabilities(loaded, [request for _, _, request in requests], scoring.batch_size)
    for (index, option, request), values in zip(requests, read, strict=True):
        if len(request.wanted[0]) > 1:
            scores[index] = values[0, : len(request.wanted[0])].tolist()
        else:
            total = float(values[:, 0].double().sum())
            scores[index][option] = total / len(request.wanted) if scoring.length_normalised else total
    return {index: _decide(record, tuple(scores[index])) for index, (record, _) in asked.items()}


def _option_tokens(encoder: Encoder, record: Record, prompt: Prompt) -> list[tuple[int, ...]]:
    tokens = [encoder.continuation(prompt, option) for option in record.options]
    if len(set(tokens)) != len(tokens):
        twice = [option for option, ids in zip(record.options, tokens, strict=True) if tokens.count(ids) > 1]
        raise UserError(
            "the model's tokenizer cannot tell two options apart",
            where=record.source,
            value=twice,
            expected="options that give different tokens",
        )
    return tokens


def _decide(record: Record, scores: tuple[float, ...]) -> Answered:
    if any(math.isnan(score) or score > 0 for score in scores) or max(scores) == -math.inf:
        return Answered(record, {"accuracy": math.nan}, "", scores)
    said = record.options[scores.index(max(scores))]
    return Answered(record, {"accuracy": float(said == record.answer)}, said, scores)


def _generate(loaded: LoadedModel, asked: Mapping[int, tuple[Record, Prompt]], scoring: Scoring) -> dict[int, Answered]:
    prompts = {index: prompt for index, (_, prompt) in asked.items()}
    answers: dict[int, Answered] = {}
    for index, said in say(loaded, prompts, scoring.batch_size, scoring.max_new_tokens).items():
        record = asked[index][0]
        assert record.answer is not None
        values = text_values(said or "", record.answer)
        if said is None:
            # Nothing was said that could be right or wrong.
            answers[index] = Answered(record, dict.fromkeys(values, math.nan), "")
        else:
            answers[index] = Answered(record, values, said, silent=not said)
    return answers
