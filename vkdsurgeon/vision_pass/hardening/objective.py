"""Losses on forget images that hardening takes at other weights than the student's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.losses import Targets, feature_loss, layer_loss
from vkdsurgeon.vision_pass.hardening.entrance import Entrance
from vkdsurgeon.vision_pass.hardening.identity_heads import IdentityHeads
from vkdsurgeon.vision_pass.trainer import DistillationTerm


@dataclass(frozen=True)
class ForgetObjective:
    """The forget term as hardening looks at it.

    Attributes:
        stack: The student.
        term: Forgetting.
        recipe: The settings.
        teacher: The teacher's features t(x) of the forget images at the term's layers.
        heads: Identity heads, where the recipe has them.
        entrance: Of the trained layers, where layers before them are frozen.
    """

    stack: VisualStack
    term: DistillationTerm
    recipe: Recipe
    teacher: FeatureStore
    heads: IdentityHeads | None
    entrance: Entrance | None = None

    def forget(self, indices: Sequence[int], weight: float, identity_weight: float) -> Iterator[Tensor]:
        """Yield, part by part, what sums to the weighted forget loss and hinge of the heads, means over images.

        Args:
            indices: Forget images.
            weight: Weight of the forget loss in the sum.
            identity_weight: Of the heads' hinge; without heads it has no say.
        """
        for part, features in self._passes(indices):
            loss = self._distance(part, features, self.term.targets, weight / len(indices))
            if self.heads is not None and identity_weight:
                loss = loss + identity_weight / len(indices) * self.heads.hinge(features, part).sum()
            yield loss

    def relearn(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield, part by part, what sums to the attacker's loss: the distance back to the teacher's features t(x)."""
        for part, features in self._passes(indices):
            yield self._distance(part, features, self.teacher, 1 / len(indices), plain=True)

    def reread(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield, part by part, the loss of an attacker whom it suffices that the heads read the subjects again."""
        assert self.heads is not None
        for part, features in self._passes(indices):
            yield self.heads.surprise(features, part).sum() / len(indices)

    def _passes(self, indices: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        own = self.stack.processes.share(indices)
        for part, batch in self.term.samples.batches(own, self.recipe.micro_batch):
            with nullcontext() if self.entrance is None else self.entrance.opened():
                features = self.stack.features(batch, tuple(self.term.layers))
            yield part, features

    def _distance(
        self, part: list[int], features: dict[str, Tensor], store: Targets, share: float, *, plain: bool = False
    ) -> Tensor:
        # A loss of a target's own, such as a repulsion, says nothing about a way back.
        loss = feature_loss() if plain else self.term.loss
        return layer_loss(loss, self.term.layers, features, store, part, share)


def gradients(
    losses: Iterator[Tensor], weights: Mapping[str, Parameter], processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Gradient of a sum of losses, leaving every `.grad` and whatever hangs on it alone.

    Args:
        losses: Yields the terms; each one's graph is gone before the next is made.
        weights: Parameters by name; those that ask for no gradient, or have no say, are left out of the result.
        processes: Those that have the other terms of the sum; then nothing is left out that asks for a gradient.
    """
    asking = {name: value for name, value in weights.items() if value.requires_grad}
    total: dict[str, Tensor] = {}
    for loss in losses:
        found = torch.autograd.grad(loss, list(asking.values()), allow_unused=True)
        for name, gradient in zip(asking, found, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient if name in total else gradient
    if processes.count > 1:
        # Copies: autograd may give two weights one and the same tensor.
        zeros = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in asking.items()}
        total = {name: zero + total.get(name, 0) for name, zero in zeros.items()}
        processes.add(total.values())
    return total
