"""The loss of the language model on training examples: log-probabilities with gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.model.batches import Request, answer_request, batches_of, collate_requests, last_logits
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.questions import Prompter
from vkdsurgeon.training.losses import accumulate
from vkdsurgeon.training.sampler import GroupedSampler

Result = TypeVar("Result")


class Term(Protocol):
    """One summand of a method's loss."""

    def __call__(self, examples: Sequence[QAExample], weight: float | None = None, /) -> float:
        """The mean of the term over examples.

        Args:
            examples: Drawn ones.
            weight: Leave the gradient of the term times this in the parameters; None only measures.
        """


@dataclass
class LanguageLoss:
    """The model, tokenizer and prompt encoding that all loss terms share.

    Attributes:
        loaded: The whole model; its parameters in scope ask for gradients, the others do not.
        micro_batch: Most sequences that pass the model at once.
        cache_bytes: Most bytes of encoded images, and of stored tensors, to hold each.
        seed: Seed of the random draws.
    """

    loaded: LoadedModel
    micro_batch: int
    cache_bytes: int
    seed: int
    _prompter: Prompter = field(init=False)

    def __post_init__(self) -> None:
        self._prompter = Prompter(self.loaded.encoder, self.cache_bytes)

    def request(self, example: QAExample, answer: str | None = None) -> Request:
        """An example as a request for the log-probabilities of its answer's tokens, or of another answer's."""
        prompt = self._prompter(example)
        return answer_request(self.loaded.encoder, prompt, example.answer if answer is None else answer)

    def kind(self, example: QAExample) -> Hashable:
        """Equal for examples that share a forward pass."""
        return self.request(example).signature

    def sampler(self, examples: Sequence[QAExample], order: str) -> GroupedSampler[QAExample]:
        """Examples to draw from, those that share a forward pass together.

        Args:
            examples: Which ones.
            order: Names the order, which is the same for equal names.
        """
        kinds = {each: self.kind(each) for each in examples}
        return GroupedSampler(examples, kinds.__getitem__, random.Random(f"{self.seed} {order}"))

    def logits(
        self, examples: Sequence[QAExample], answers: Sequence[str] | None = None
    ) -> Iterator[tuple[list[int], list[Request], Tensor]]:
        """Run the model over examples, in batches that need no padding.

        Args:
            examples: Which ones.
            answers: One per example to read in place of its own.

        Yields:
            Positions in `examples`, their requests, and float32 logits [B, n, vocabulary] that predict the n tokens
            of the answers; with gradients where they are enabled.
        """
        requests = [
            self.request(example, None if answers is None else answers[at]) for at, example in enumerate(examples)
        ]
        for part in batches_of(range(len(requests)), lambda at: requests[at].signature, self.micro_batch):
            chosen = [requests[at] for at in part]
            yield part, chosen, last_logits(self.loaded, collate_requests(self.loaded, chosen), len(chosen[0].wanted))

    def learn(
        self,
        examples: Sequence[QAExample],
        value: Callable[[list[int], Tensor, Tensor], Tensor],
        weight: float | None,
        *,
        answers: Sequence[str] | None = None,
        by_token: bool = False,
    ) -> float:
        """Mean of a value, and its gradient.

        Args:
            examples: Which ones.
            value: From positions in `examples`, the answers' tokens [B, n] int64 and log-probabilities
                [B, n, vocabulary] to the sum of the values of each example, [B].
            weight: Leave the gradient of the mean times this in the parameters; None only measures.
            answers: As in `logits`.
            by_token: The mean is one over all tokens instead of examples.
        """
        count = len(examples)
        if by_token:
            requests = [
                self.request(each, None if answers is None else answers[at]) for at, each in enumerate(examples)
            ]
            count = sum(len(request.wanted) for request in requests)

        def means() -> Iterator[Tensor]:
            for part, chosen, logits in self.logits(examples, answers):
                tokens = torch.tensor([[want[0] for want in each.wanted] for each in chosen], device=logits.device)
                yield value(part, tokens, logits.log_softmax(dim=2)).sum() / count

        return accumulate(means(), weight)


def log_likelihood(tokens: Tensor, log_probabilities: Tensor) -> Tensor:
    """log p of each answer, [B]: the sum over its tokens.

    Args:
        tokens: [B, n] int64.
        log_probabilities: [B, n, vocabulary].
    """
    return log_probabilities.gather(2, tokens.unsqueeze(2)).squeeze(2).sum(dim=1)


def cross_entropy(language: LanguageLoss) -> Term:
    """CE: minus the mean log-probability of the answers' tokens, over all tokens of the examples, in nats."""

    def term(examples: Sequence[QAExample], weight: float | None = None) -> float:
        return language.learn(examples, lambda _, tokens, log_p: -log_likelihood(tokens, log_p), weight, by_token=True)

    return term


def limited(examples: Sequence[QAExample], most: int, seed: int, role: str) -> list[QAExample]:
    """At most so many of the examples, drawn at random, all different."""
    return random.Random(f"{seed} {role}").sample(list(examples), min(most, len(examples)))


def hidden_of(output: Any) -> Tensor:
    """The hidden states [B, T, D] of a layer's output, which some architectures wrap in a tuple."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
