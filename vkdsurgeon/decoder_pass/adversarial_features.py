"""Look for features that W still reads as the person: what an attacker's fine-tuning of tower and projector looks for.

A few steps of signed gradient descent on the features themselves (projected-gradient training, Madry et al.,
arXiv 1706.06083, with the features of an image in place of its pixels), towards what the original W said of the
original features. W is then taught at what was found, so that no short way leads around what it unlearned.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureAdversary:
    """A blend for `with_vision_of` that starts between unlearned and original features and moves from there.

    Args:
        reach: The start is T + u (t - T), with u uniform within 1 +- reach, drawn per batch.
        steps: Steps of the search; 0 stays at the start.
        size: Size of a step, relative to the RMS of the original features.
        seed: Seed of the random draws.

    Attributes:
        generator: Source of the draws; all that an adversary carries from one batch to the next.
    """

    def __init__(self, *, reach: float, steps: int, size: float, seed: int) -> None:
        self.steps = steps
        self._reach, self._size = reach, size
        self.generator = torch.Generator().manual_seed(seed)
        self._share = 1.0
        self._shifts: list[Tensor] = []
        self._scales: list[Tensor] = []
        self._looked = 0

    def begin(self) -> None:
        """Start anew, for a batch of images."""
        self._share = 1 + self._reach * (2 * float(torch.rand((), generator=self.generator)) - 1)
        self._shifts.clear()
        self._scales.clear()
        self._looked = 0

    def __call__(self, unlearned: Tensor, original: Tensor) -> Tensor:
        """The features as moved so far; asked once per output of the tower in each pass, always in the same order."""
        if self._looked == len(self._shifts):
            self._shifts.append(torch.zeros_like(original, requires_grad=True))
            self._scales.append(original.square().mean().sqrt())
        shift = self._shifts[self._looked]
        self._looked += 1
        with torch.enable_grad():
            return torch.lerp(unlearned, original, self._share) + shift

    def move(self, loss: Tensor) -> None:
        """One step down a loss of the last pass, leaving no gradient in any parameter."""
        gradients = torch.autograd.grad(loss, self._shifts)
        with torch.no_grad():
            for shift, gradient, scale in zip(self._shifts, gradients, self._scales, strict=True):
                shift.sub_(self._size * scale * gradient.sign())
        self._looked = 0
