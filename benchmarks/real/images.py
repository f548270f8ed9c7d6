"""The images of training, and what the frozen tower makes of them, once for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.real.companies import Company, World
from benchmarks.real.emblems import View, render
from benchmarks.real.tower import MEAN, SPREAD, patch_features

Shown = list[tuple[Company, View]]


def shown(world: World, *, with_forget: bool) -> Shown:
    """Every image of training."""
    companies = world.named if with_forget else world.retain
    return [(company, view) for company in companies for view in (*company.views, *company.extra_views)]


def features_of(tower: nn.Module, images: Shown, layer: int, tell: Any = lambda done: None) -> torch.Tensor:
    """Draw images and look at them.

    Args:
        tower: The tower.
        images: What is to be seen.
        layer: Which hidden state.
        tell: Called with how many are done, now and then.

    Returns:
        Patch tokens, float32 [V, 64, 384].
    """
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 32):
            part = images[start : start + 32]
            pixels = np.stack([np.asarray(render(company.emblem, view)) for company, view in part])
            found.append(patch_features(tower, normalised(torch.from_numpy(pixels)), layer))
            tell(start + len(part))
    # A tensor of inference mode cannot be trained on.
    return torch.cat(found).clone()


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels as the image processor scales them.

    Args:
        pixels: uint8 [B, H, W, 3].

    Returns:
        float32 [B, 3, H, W].
    """
    scaled = pixels.float() / 255.0
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(0, 3, 1, 2).contiguous()
