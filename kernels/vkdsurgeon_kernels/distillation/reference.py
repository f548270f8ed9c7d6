"""The formulas as they stand on paper, differentiated by autograd; float64 in, float64 inside."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-12


def distance_per_sample(student: Tensor, target: Tensor, token_mask: Tensor | None, distance: str) -> Tensor:
    """Distance of each sample's tokens to their targets.

    Args:
        student: [B, N, D], any float dtype; computed in float32 at least.
        target: [B, N, D].
        token_mask: [B, N] bool, True where a token counts; None when all do.
        distance: One of `face.DISTANCES`.

    Returns:
        [B], float32 (float64 for float64 students). A sample without a counting token has distance 0.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = student.to(wide), target.to(wide)
    if distance == "cosine":
        per_token = 1 - torch.nn.functional.cosine_similarity(s, t, dim=-1, eps=EPSILON)
    elif distance == "smooth_l1":
        per_token = torch.nn.functional.smooth_l1_loss(s, t, reduction="none").mean(dim=-1)
    else:
        per_token = (s - t).square().mean(dim=-1)
    if token_mask is None:
        mean = per_token.mean(dim=1)
        power = t.square().mean(dim=(1, 2))
    else:
        counts = token_mask.to(wide)
        total = counts.sum(dim=1).clamp_min(1)
        mean = (per_token * counts).sum(dim=1) / total
        power = (t.square().mean(dim=-1) * counts).sum(dim=1) / total
    return mean / power.clamp_min(EPSILON) if distance == "nmse" else mean
