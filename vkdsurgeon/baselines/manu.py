"""MANU: prune the MLP neurons that the forget set excites more than the retain set does. Nothing is trained.

    S(n) = sum over k of ( I_k(forget, n) / (I_k(retain, n) + e) - 1 ),      k in abs, freq, var, rms
    I_abs = E |z|,  I_freq = share of tokens with |z| > 0.1 rms(z),  I_var = std z,  I_rms = sqrt(E z^2)

with z the neuron's activation at every token. The top `manu_fraction` of the tower's neurons and of the decoder's are
set to zero: the column of the MLP's output matrix that reads the neuron, which removes it as pruning its inputs would.

Source: Liu et al., arXiv 2502.15910, section 4. Here z is what the output matrix reads (after activation and gate), all
tokens count alike and none is padding, all layers take part, and moments are summed in float64. The published code
registers the hooks of all layers under the names of the last three, so that scores belong to no layer; pads activations
with zeros that count; uses a fixed 0.1 whatever the layer's scale; and goes on with half of the data where memory ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vkdsurgeon.errors import UserError

_FREQUENT = 0.1
_TINY = 1e-5


@dataclass
class Moments:
    """Sums over tokens per neuron, [N] float64."""

    tokens: int
    absolute: Tensor
    first: Tensor
    second: Tensor
    frequent: Tensor

    @classmethod
    def empty(cls, neurons: int) -> Moments:
        """Sums over no tokens."""
        return cls(0, *(torch.zeros(neurons, dtype=torch.float64) for _ in range(4)))

    def add(self, activations: Tensor) -> None:
        """Count activations [..., N]."""
        z = activations.detach().double().flatten(0, -2).cpu()
        threshold = _FREQUENT * z.square().mean().sqrt()
        self.tokens += len(z)
        self.absolute += z.abs().sum(dim=0)
        self.first += z.sum(dim=0)
        self.second += z.square().sum(dim=0)
        self.frequent += (z.abs() > threshold).sum(dim=0)

    def importance(self) -> Tensor:
        """I_abs, I_freq, I_var, I_rms, [4, N]."""
        absolute, first, second, frequent = (
            each / max(self.tokens, 1) for each in (self.absolute, self.first, self.second, self.frequent)
        )
        spread = (second - first.square()).clamp_min(0).sqrt()
        return torch.stack([absolute, frequent, spread, second.sqrt()])


@contextmanager
def counted(model: nn.Module, outputs: Sequence[str]) -> Iterator[dict[str, Moments]]:
    """Count the activations that some linear layers read while the model runs.

    Args:
        model: The model.
        outputs: Paths of the MLPs' output matrices.
    """
    found: dict[str, Moments] = {}

    def keep(path: str, module: nn.Module, inputs: Any) -> None:
        found.setdefault(path, Moments.empty(inputs[0].shape[-1])).add(inputs[0])

    handles = [model.get_submodule(path).register_forward_pre_hook(partial(keep, path)) for path in outputs]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def neuron_scores(forget: Mapping[str, Moments], retain: Mapping[str, Moments]) -> dict[str, Tensor]:
    """S of every neuron, [N] float64 by path of the output matrix."""
    scores = {}
    for path, moments in forget.items():
        f, r = moments.importance(), retain[path].importance()
        scores[path] = (f / (r + _TINY) - 1).sum(dim=0)
    return scores


def top_neurons(scores: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """The neurons with the highest scores over all layers of one part of the model.

    Args:
        scores: From `neuron_scores`.
        fraction: Share of all neurons; at least one is chosen.

    Returns:
        Path -> [N] bool, layers without a chosen neuron left out.

    Raises:
        UserError: There are no neurons.
    """
    if not scores:
        raise UserError("no MLP neuron was excited by the forget set", expected="a model with MLP layers")
    flat = torch.cat(list(scores.values()))
    count = max(1, round(fraction * flat.numel()))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    # A stable sort, so that ties go to the earlier layer and equal runs are equal.
    chosen[flat.argsort(descending=True, stable=True)[:count]] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {path: part for path, part in zip(scores, parts, strict=True) if bool(part.any())}
