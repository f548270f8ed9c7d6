"""Selection by sorting everything: the truth in tests, too hungry for real towers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def select(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest of all scores, ties broken by element order; see `face.select_top_fraction`."""
    flat = torch.cat([score.reshape(-1) for score in scores])
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    chosen = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    chosen[order] = True
    parts = chosen.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]
