"""The formulas as they stand on paper, differentiated by autograd; float64 in, float64 inside.

Nothing at run time uses this module: tests take it for the truth, benchmarks for what one would write by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SMALLEST_POWER = 1e-12
"""Least mean square of a target that nmse divides by."""

SMALLEST_SQUARE = 1e-24
"""A token whose squared norm does not exceed this has no direction: its cosine is 0, and so is its gradient."""


def distance_per_sample(student: Tensor, target: Tensor, token_mask: Tensor | None, distance: str) -> Tensor:
    """Distance of each sample's tokens to their targets.

    With s, t the D features of a token and a mean over the N tokens that count:
    `mse` mean |s - t|^2 / D, `nmse` mse / (mean |t|^2 / D), `cosine` mean (1 - s.t / (|s| |t|)), `smooth_l1` mean of
    Huber's loss with threshold one.

    Args:
        student: [B, N, D], any float dtype; computed in float32 at least.
        target: [B, N, D].
        token_mask: [B, N] bool, True where a token counts; None when all do.
        distance: `mse`, `nmse`, `cosine` or `smooth_l1`.

    Returns:
        [B], float32 (float64 for float64 students). A sample without a counting token has distance 0.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = student.to(wide), target.to(wide)
    if token_mask is not None:
        # 0 * NaN is NaN, so what a masked token holds must be gone before anything is computed.
        s, t = (torch.where(token_mask.unsqueeze(-1), features, 0) for features in (s, t))
    if distance == "cosine":
        return _mean(1 - _cosine(s, t), token_mask)
    if distance == "smooth_l1":
        return _mean(torch.nn.functional.smooth_l1_loss(s, t, reduction="none"), token_mask)
    error = _mean((s - t).square(), token_mask)
    if distance == "mse":
        return error
    return error / _mean(t.square(), token_mask).clamp_min(SMALLEST_POWER)


def distillation_loss(
    students: Sequence[Tensor],
    targets: Sequence[Tensor],
    terms: Sequence[Mapping[str, float]],
    layer_weights: Sequence[float] | None = None,
    sample_weights: Tensor | None = None,
    token_masks: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """w_b sum_l v_l sum_k c_lk d_k(student_l, target_l), one number per sample.

    Args:
        students: L tensors [B, N_l, D_l].
        targets: L tensors of the same shapes.
        terms: For each layer, coefficient c of each distance.
        layer_weights: L numbers v; ones when None.
        sample_weights: [B], w; ones when None.
        token_masks: L tensors [B, N_l] bool, or None where all tokens count.

    Returns:
        [B], float32 or float64.
    """
    total = torch.zeros((), dtype=torch.promote_types(students[0].dtype, torch.float32), device=students[0].device)
    for layer, (student, target) in enumerate(zip(students, targets, strict=True)):
        mask = None if token_masks is None else token_masks[layer]
        weight = 1.0 if layer_weights is None else layer_weights[layer]
        for distance, coefficient in terms[layer].items():
            total = total + weight * coefficient * distance_per_sample(student, target, mask, distance)
    return total if sample_weights is None else total * sample_weights.to(total.dtype)


def _mean(values: Tensor, token_mask: Tensor | None) -> Tensor:
    """Mean of [B, N] or [B, N, D] over channels and counting tokens; 0 where there are none."""
    inner = tuple(range(1, values.dim()))
    if values.numel() == 0:
        return values.sum(dim=inner)
    if token_mask is None:
        return values.mean(dim=inner)
    per_token = values.mean(dim=-1) if values.dim() == 3 else values
    return (per_token * token_mask).sum(dim=1) / token_mask.sum(dim=1).clamp_min(1)


def _cosine(s: Tensor, t: Tensor) -> Tensor:
    squares = [features.square().sum(dim=-1) for features in (s, t)]
    directed = (squares[0] > SMALLEST_SQUARE) & (squares[1] > SMALLEST_SQUARE)
    product = torch.where(directed, squares[0] * squares[1], 1)
    return torch.where(directed, (s * t).sum(dim=-1) * product.rsqrt(), 0)
