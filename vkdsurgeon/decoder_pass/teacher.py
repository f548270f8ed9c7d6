"""What the original language model says, written down before it changes: its greedy answer, and how likely all else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.model.batches import batches_of, last_logits, to_model
from vkdsurgeon.model.features import FeatureStore
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prompts import Prompt, append, collate
from vkdsurgeon.model.questions import Ask, Prompter

Eyes = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Card:
    """One question and the teacher's word on it.

    Attributes:
        ask: The question.
        answer: Tokens of the teacher's greedy answer, at least one.
        index: Where its log-probabilities lie in the book.
    """

    ask: Ask
    answer: tuple[int, ...]
    index: int


class Book:
    """The teacher's answers and log-probabilities for a set of questions.

    Pictures are judged where the answer is given; text at every position, because there all of a prompt is language.

    Args:
        loaded: The original model.
        prompter: Encodes questions.
        micro_batch: Sequences per forward pass.
        answer_tokens: Most tokens of an answer.
        budget_bytes: Most bytes of log-probabilities to hold in memory.
    """

    def __init__(
        self, loaded: LoadedModel, prompter: Prompter, *, micro_batch: int, answer_tokens: int, budget_bytes: int
    ) -> None:
        self.loaded = loaded
        self.prompter = prompter
        self.micro_batch = micro_batch
        self._answer_tokens = answer_tokens
        self._store = FeatureStore(budget_bytes)
        self._cards: dict[str, dict[Ask, Card]] = {}

    def write(self, lesson: str, asks: Iterable[Ask], eyes: Eyes) -> None:
        """Ask the teacher, once per question.

        Args:
            lesson: Name of the set.
            asks: The questions; repeated ones are asked once.
            eyes: Context in which the teacher looks at pictures.
        """
        cards = self._cards.setdefault(lesson, {})
        new = [ask for ask in dict.fromkeys(asks) if ask not in cards]
        # Neighbours share pictures, and a part is small enough for its pictures to be held.
        new.sort(key=lambda ask: str(ask.picture or ""))
        with torch.no_grad(), eyes():
            for start in range(0, len(new), 16 * self.micro_batch):
                prompts = [(ask, self.prompter(ask)) for ask in new[start : start + 16 * self.micro_batch]]
                for batch in batches_of(prompts, lambda item: item[1].signature, self.micro_batch):
                    answers = self._answers([prompt for _, prompt in batch])
                    for (ask, _), answer in zip(batch, answers, strict=True):
                        cards[ask] = Card(ask, answer, len(cards))
                self.note(lesson, [cards[ask] for ask, _ in prompts])

    def note(self, lesson: str, cards: Sequence[Card]) -> None:
        """Write down log-probabilities along answers that are known already, under the name of this or another set."""
        with torch.no_grad():
            for part, look in self.batches(cards):
                for card, row in zip(part, look(), strict=True):
                    # Half precision: at a log-probability of -10 it is off by 0.4 %, at half the memory.
                    self._store.put(lesson, card.index, row.log_softmax(dim=1).half())

    def cards(self, lesson: str, asks: Iterable[Ask]) -> list[Card]:
        """The cards of questions that were written down."""
        return [self._cards[lesson][ask] for ask in asks]

    def kind(self, lesson: str, ask: Ask) -> Hashable:
        """Equal for questions that share a forward pass."""
        return self.prompter(ask).signature, len(self._cards[lesson][ask].answer)

    def batches(self, cards: Sequence[Card]) -> Iterable[tuple[list[Card], Callable[[], Tensor]]]:
        """Questions and the teacher's answers to them, in batches that need no padding.

        Yields:
            Cards, and a pass of the model over them: float32 logits [B, n, vocabulary] at the judged positions, with
            gradients where they are enabled.
        """
        items = [(card, self.prompter(card.ask)) for card in cards]
        for batch in batches_of(items, lambda item: (item[1].signature, len(item[0].answer)), self.micro_batch):
            part = [card for card, _ in batch]
            yield part, partial(last_logits, self.loaded, self._inputs(batch), _judged(batch[0][1], part[0]))

    def log_probabilities(self, lesson: str, cards: Sequence[Card]) -> Tensor:
        """The teacher's, float32 [B, n, vocabulary], for cards of one batch of `batches`."""
        return self._store.get(lesson, [card.index for card in cards], self.loaded.device).float()

    def _inputs(self, batch: Sequence[tuple[Card, Prompt]]) -> Mapping[str, Tensor]:
        ids = torch.tensor([card.answer[:-1] for card, _ in batch], dtype=torch.int64).reshape(len(batch), -1)
        return to_model(append(collate([prompt for _, prompt in batch]), ids), self.loaded)

    def _answers(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        inputs = to_model(collate(list(prompts)), self.loaded)
        output = self.loaded.model.generate(
            **inputs,
            max_new_tokens=self._answer_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            # An answer is read again as part of a prompt, where this token would stand for features that are not there.
            suppress_tokens=_placeholders(self.loaded.model.config),
        )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [_cut(row, self.loaded.model.generation_config.eos_token_id) for row in new]


def _placeholders(config: Any) -> list[int] | None:
    names = ("image_token_id", "image_token_index", "video_token_id")
    return sorted({token for name in names if isinstance(token := getattr(config, name, None), int)}) or None


def _judged(prompt: Prompt, card: Card) -> int:
    return len(card.answer) + (0 if prompt.picture else len(prompt.ids) - 1)


def _cut(tokens: Sequence[int], ends: int | Sequence[int] | None) -> tuple[int, ...]:
    known = {ends} if isinstance(ends, int) else set(ends or ())
    last = next((index for index, token in enumerate(tokens) if token in known), len(tokens) - 1)
    return tuple(tokens[: last + 1])
