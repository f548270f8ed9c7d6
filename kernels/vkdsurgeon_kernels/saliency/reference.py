"""The truth in tests: plain accumulation, and selection by sorting everything, too hungry for real towers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BitMask
from vkdsurgeon_kernels.saliency import values


def accumulate(score: Tensor, gradient: Tensor, squared: bool) -> None:
    """Add |gradient| or its square to a score, in place; see `functional.accumulate_scores`."""
    wide = gradient.to(torch.float32)
    if squared:
        score.addcmul_(wide, wide)
    else:
        score.add_(wide.abs())


def select(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Words of the `count` largest of all scores; see `operator.select_top`."""
    values.check(scores)
    flat = torch.cat([score.reshape(-1) for score in scores])
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    chosen = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    chosen[order] = True
    return [BitMask.from_bool(part).words for part in chosen.split([score.numel() for score in scores])]
