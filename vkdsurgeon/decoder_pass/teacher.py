"""The answers of the original language model, stored before it changes: greedy, and log-probabilities of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.model.batches import batches_of, collate_requests, last_logits, to_model, tokens_request
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prompts import Prompt, collate
from vkdsurgeon.model.questions import Prompter, Question

VisionSwap = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class TeacherAnswer:
    """One question and the teacher's word on it.

    Attributes:
        question: What was asked.
        tokens: Those of the teacher's greedy answer, at least one.
        index: Where its log-probabilities lie among the outputs.
    """

    question: Question
    tokens: tuple[int, ...]
    index: int


class TeacherOutputs:
    """The teacher's answers and log-probabilities for a set of questions.

    Images are judged where the answer is given; text at every position, because there all of a prompt is language.

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
        self._known: dict[str, dict[Question, TeacherAnswer]] = {}

    def write(self, role: str, questions: Iterable[Question], vision: VisionSwap) -> None:
        """Ask the teacher, once per question.

        Args:
            role: Name of the set.
            questions: Those; repeated ones are asked once.
            vision: Context in which the teacher looks at images.
        """
        known = self._known.setdefault(role, {})
        new = [question for question in dict.fromkeys(questions) if question not in known]
        # Neighbours share images, and a part is small enough for its images to be held.
        new.sort(key=lambda question: str(question.media or ""))
        with torch.no_grad(), vision():
            for start in range(0, len(new), 16 * self.micro_batch):
                prompts = [
                    (question, self.prompter(question)) for question in new[start : start + 16 * self.micro_batch]
                ]
                for batch in batches_of(prompts, lambda item: item[1].signature, self.micro_batch):
                    answers, logits = self._generate([prompt for _, prompt in batch])
                    for (question, _), tokens, row in zip(batch, answers, logits, strict=True):
                        known[question] = TeacherAnswer(question, tokens, len(known))
                        if question.media:
                            self._put(role, known[question], row[: len(tokens)])
                # Of text the positions of the prompt are judged too, which generating says nothing of.
                self.note(role, [known[question] for question, _ in prompts if not question.media])

    def note(self, role: str, answers: Sequence[TeacherAnswer]) -> None:
        """Write down log-probabilities along answers that are known already, under the name of this or another set."""
        with torch.no_grad():
            for part, look in self.batches(answers):
                for answer, row in zip(part, look(), strict=True):
                    self._put(role, answer, row)

    def answers_to(self, role: str, questions: Iterable[Question]) -> list[TeacherAnswer]:
        """The answers to questions that were asked."""
        return [self._known[role][question] for question in questions]

    def kind(self, role: str, question: Question) -> Hashable:
        """Equal for questions that share a forward pass."""
        return self.prompter(question).signature, len(self._known[role][question].tokens)

    def batches(self, answers: Sequence[TeacherAnswer]) -> Iterable[tuple[list[TeacherAnswer], Callable[[], Tensor]]]:
        """Questions and the teacher's answers to them, in batches that need no padding.

        Yields:
            Answers, and a pass of the model over them: float32 logits [B, n, vocabulary] at the judged positions, with
            gradients where they are enabled.
        """
        items = [(each, tokens_request(self.prompter(each.question), each.tokens)) for each in answers]
        for batch in batches_of(items, lambda item: item[1].signature, self.micro_batch):
            part, requests = [answer for answer, _ in batch], [request for _, request in batch]
            inputs = collate_requests(self.loaded, requests)
            yield part, partial(last_logits, self.loaded, inputs, _judged(requests[0].prompt, part[0]))

    def log_probabilities(self, role: str, answers: Sequence[TeacherAnswer]) -> Tensor:
        """The teacher's, float32 [B, n, vocabulary], for answers of one batch of `batches`."""
        return self._store.get(role, [answer.index for answer in answers], self.loaded.device).float()

    def _put(self, role: str, answer: TeacherAnswer, logits: Tensor) -> None:
        # Half precision: at a log-probability of -10 it is off by 0.4 %, at half the memory.
        self._store.put(role, answer.index, logits.log_softmax(dim=1).half())

    def _generate(self, prompts: Sequence[Prompt]) -> tuple[list[tuple[int, ...]], Tensor]:
        """Greedy answers, and the logits behind each of their tokens, float32 [B, n, vocabulary]."""
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
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        answers = [_cut(row, self.loaded.model.generation_config.eos_token_id) for row in new]
        return answers, torch.stack(output.logits, dim=1).float()


def _placeholders(config: Any) -> list[int] | None:
    names = ("image_token_id", "image_token_index", "video_token_id")
    return sorted({token for name in names if isinstance(token := getattr(config, name, None), int)}) or None


def _judged(prompt: Prompt, answer: TeacherAnswer) -> int:
    return len(answer.tokens) + (0 if prompt.media else len(prompt.ids) - 1)


def _cut(tokens: Sequence[int], ends: int | Sequence[int] | None) -> tuple[int, ...]:
    known = {ends} if isinstance(ends, int) else set(ends or ())
    last = next((index for index, token in enumerate(tokens) if token in known), len(tokens) - 1)
    return tuple(tokens[: last + 1])
