"""Requests for log-probabilities, in batches that need no padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prompts import Encoder, Prompt, append, collate

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Request:
    """Log-probabilities to read behind one prompt.

    Attributes:
        prompt: What precedes.
        appended: The answer's tokens but for the last.
        wanted: For each of the last `len(appended) + 1` positions the tokens whose log-probability is asked for.
        moments: Whether mean and standard deviation of a token's log-probability, drawn from the model itself, are
            asked for as well; equal in all requests of a batch.
    """

    prompt: Prompt
    appended: tuple[int, ...]
    wanted: tuple[tuple[int, ...], ...]
    moments: bool = False

    @property
    def signature(self) -> Hashable:
        """Equal for requests that may share a batch."""
        return self.prompt.signature, len(self.appended)

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens, the prompt's first."""
        return (*self.prompt.ids, *self.appended)


def answer_request(encoder: Encoder, prompt: Prompt, answer: str) -> Request:
    """The request for the log-probability of every token of one answer."""
    return tokens_request(prompt, encoder.continuation(prompt, answer))


def tokens_request(prompt: Prompt, ids: tuple[int, ...]) -> Request:
    """The request for the log-probability of every one of these tokens in a row."""
    return Request(prompt, ids[:-1], tuple((token,) for token in ids))


def batches_of(items: Sequence[Item], signature: Callable[[Item], Hashable], batch_size: int) -> Iterator[list[Item]]:
    """Group items by signature, in order of first appearance, and cut the groups into batches."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(signature(item), []).append(item)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def log_probabilities(loaded: LoadedModel, requests: Sequence[Request]) -> Tensor:
    """Read log-probabilities in one forward pass; gradients flow where they are enabled.

    Args:
        loaded: The model.
        requests: Requests of one signature.

    Returns:
        float32 [B, n, k]: per position n, per wanted token k; where a request wants fewer than k tokens the rest is
        filled by token 0.
    """
    return read_logits(loaded, collate_requests(loaded, requests), requests)


def collate_requests(loaded: LoadedModel, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Model inputs of requests of one signature."""
    ids = torch.tensor([request.appended for request in requests], dtype=torch.int64)
    inputs = collate([request.prompt for request in requests])
    return to_model(append(inputs, ids.reshape(len(requests), -1)), loaded)


def read_logits(loaded: LoadedModel, inputs: Mapping[str, Any], requests: Sequence[Request]) -> Tensor:
    """Run the model and read what requests want at the last positions.

    Args:
        loaded: The model.
        inputs: Its inputs, one row per request, all ending with the requests' tokens.
        requests: Requests that want the same number of positions.

    Returns:
        float32 [B, n, k], as in `log_probabilities`; [B, n, k + 2] with moments, mean before deviation.
    """
    positions = len(requests[0].wanted)
    width = max(len(tokens) for request in requests for tokens in request.wanted)
    wanted = torch.tensor(
        [[(*tokens, *(0,) * (width - len(tokens))) for tokens in request.wanted] for request in requests],
        device=loaded.device,
    )
    logits = last_logits(loaded, inputs, positions)
    if not requests[0].moments:
        return logits.gather(2, wanted) - logits.logsumexp(dim=2, keepdim=True)
    log_probabilities = logits.log_softmax(dim=2)
    likely = log_probabilities.exp()
    mean = (likely * log_probabilities).sum(dim=2, keepdim=True)
    deviation = ((log_probabilities - mean).square() * likely).sum(dim=2, keepdim=True).sqrt()
    return torch.cat([log_probabilities.gather(2, wanted), mean, deviation], dim=2)


def last_logits(loaded: LoadedModel, inputs: Mapping[str, Any], positions: int) -> Tensor:
    """Run the model; float32 logits [B, n, vocabulary] of the last n positions, gradients where they are enabled."""
    keep = {"logits_to_keep": positions} if _keeps(type(loaded.model)) else {}
    caching = {} if "past_key_values" in inputs else {"use_cache": False}
    logits: Tensor = loaded.model(**inputs, **keep, **caching).logits
    return logits[:, -positions:].float()


def to_model(inputs: Mapping[str, Tensor], loaded: LoadedModel) -> dict[str, Tensor]:
    """Move inputs to the model's device, images to its dtype."""
    return {
        name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _keeps(kind: type) -> bool:
    return "logits_to_keep" in inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
