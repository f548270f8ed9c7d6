"""Forget targets that can be put farther along their way while training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vkdsurgeon_kernels import target_power

from vkdsurgeon.model.feature_store import FeatureStore


class StretchedTargets:
    """t(x) + stretch (T(x) - t(x)), read as a `FeatureStore` is.

    Images that were not trained on go only a share of the way that trained ones go; how large a share depends on the
    tower and on how many views it was taught on. `validation` measures it, and the way is made longer by as much.

    Args:
        teacher: t(x).
        targets: T(x).

    Attributes:
        stretch: 1 at first.
    """

    def __init__(self, teacher: FeatureStore, targets: FeatureStore) -> None:
        self.teacher, self.targets = teacher, targets
        self.stretch = 1.0

    def get(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Targets [B, N, D] of images that share one token count."""
        target = self.targets.get(layer, indices, device)
        if self.stretch == 1.0:
            return target
        origin = self.teacher.get(layer, indices, device).float()
        return origin + self.stretch * (target.float() - origin)

    def powers(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Mean square of each image's targets, [B] float32."""
        if self.stretch == 1.0:
            return self.targets.powers(layer, indices, device)
        return target_power(self.get(layer, indices, device))
