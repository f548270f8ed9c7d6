"""Representation misdirection for unlearning: push the activations of one decoder layer towards a random direction.

    L = E ||h_l(x) - c u||^2 / P_f   (x forgotten)   +  w E ||h_l(x) - h_l,0(x)||^2 / P_r   (x kept)

Source: Li et al., arXiv 2403.03218, section 4; c relative to the activations' length after Adaptive RMU (Huu-Tien et
al., arXiv 2408.06223). u is a random unit vector, h_l the output of decoder layer l at every token of question and
answer, the image's included. Both terms are divided by the mean square P of the original activations, which has
them in one unit at every width, so w is of order 1 where the source needs 1200. As in the source, the output matrices
of the MLPs of layers l - 2 to l are trained; with scope `visual` tower and projector are, with `all` both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.baselines.examples import QAExample
from vkdsurgeon.baselines.language_loss import LanguageLoss, Term, hidden_of
from vkdsurgeon.model.batches import Request, batches_of, collate_requests
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.training.losses import accumulate


@dataclass
class Tap:
    """Reads one decoder layer's output while the model runs.

    Attributes:
        language: The model.
        layer: Module path of the decoder layer.
    """

    language: LanguageLoss
    layer: str
    _seen: list[Tensor] = field(default_factory=list)

    def activations(self, examples: Sequence[QAExample]) -> Iterator[tuple[list[int], Tensor]]:
        """Positions in `examples` and activations [B, T, D] at all tokens but an answer's last, float32."""
        requests = [self.language.request(example) for example in examples]

        def signature(at: int) -> Any:
            return requests[at].signature

        for part in batches_of(range(len(requests)), signature, self.language.micro_batch):
            yield part, self._run([requests[at] for at in part])

    def _run(self, requests: Sequence[Request]) -> Tensor:
        loaded = self.language.loaded
        with _hooked(loaded.model.get_submodule(self.layer), self._seen.append):
            loaded.model(**collate_requests(loaded, requests), use_cache=False)
        # With recomputation the layer may run again in the backward pass; the first output is the one in the graph.
        seen = self._seen[0].float()
        self._seen.clear()
        return seen


@contextmanager
def _hooked(module: torch.nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _, __, output: keep(hidden_of(output)))
    try:
        yield
    finally:
        handle.remove()


def misdirection(tap: Tap, examples: Sequence[QAExample], steering: float, generator: torch.Generator) -> Term:
    """RMU's forget term.

    Args:
        tap: Over the model as it was given.
        examples: All that the term will be asked about.
        steering: c over the mean length of a token's activations.
        generator: Source of u.
    """
    lengths, squares, tokens, width = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for _, hidden in tap.activations(examples):
            lengths += float(hidden.norm(dim=2).sum())
            squares += float(hidden.square().sum())
            tokens, width = tokens + hidden.shape[0] * hidden.shape[1], hidden.shape[2]
    power = squares / (tokens * width)
    # As in the source, u comes from the uniform distribution: all of its elements are positive.
    direction = torch.rand(width, generator=generator)
    target = steering * lengths / tokens * direction / direction.norm()

    def term(chosen: Sequence[QAExample], weight: float | None = None) -> float:
        return _mean(tap, chosen, lambda part, hidden: hidden - target.to(hidden), power, weight)

    return term


def retention(tap: Tap, examples: Sequence[QAExample]) -> Term:
    """The retain term: mean squared error to the activations as they are now."""
    known = list(dict.fromkeys(examples))
    index = {each: at for at, each in enumerate(known)}
    store = FeatureStore(tap.language.cache_bytes)
    squares, elements = 0.0, 0
    with torch.no_grad():
        for part, hidden in tap.activations(known):
            squares, elements = squares + float(hidden.square().sum()), elements + hidden.numel()
            for at, row in zip(part, hidden, strict=True):
                store.put("original", at, row)

    def term(chosen: Sequence[QAExample], weight: float | None = None) -> float:
        def error(part: list[int], hidden: Tensor) -> Tensor:
            return hidden - store.get("original", [index[chosen[at]] for at in part], hidden.device)

        return _mean(tap, chosen, error, squares / elements, weight)

    return term


def _mean(
    tap: Tap,
    examples: Sequence[QAExample],
    error: Callable[[list[int], Tensor], Tensor],
    power: float,
    weight: float | None,
) -> float:
    scale = power * len(examples)
    errors = (error(part, hidden) for part, hidden in tap.activations(examples))
    return accumulate((each.square().mean(dim=(1, 2)).sum() / scale for each in errors), weight)
