"""Losses and gradients in plain PyTorch, by explicit formula rather than autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon_kernels.distillation import rows
from vkdsurgeon_kernels.distillation.formula import SMALLEST_POWER


def losses_and_gradients(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    weights: list[dict[str, float]],
    with_gradient: bool,
    squares: Callable[..., list[Tensor]] = rows.squares,
    sums_and_gradients: Callable[..., Any] = rows.sums_and_gradients,
) -> tuple[Tensor, list[Tensor]]:
    """Weighted distances of all layers, and their derivatives by the students.

    Args:
        students: L contiguous tensors [B, N_l, D_l], not empty; computed in float32 at least.
        targets: L contiguous tensors of the same shapes.
        token_masks: L tensors [B, N_l] bool, or none when all tokens count.
        sample_weights: [B], or None for ones.
        powers: L tensors [B], mean squares of the targets over counting tokens; computed when there are none.
        weights: For each layer, the weight of each distance that occurs there, at least one.
        with_gradient: Whether the derivatives are wanted.
        squares: `rows.squares`, possibly compiled.
        sums_and_gradients: `rows.sums_and_gradients`, possibly compiled.

    Returns:
        [B] in the computing dtype, and L tensors like the students (none unless wanted).
    """
    first = students[0]
    dtype = torch.promote_types(first.dtype, torch.float32)
    if sample_weights is None:
        sample_weights = torch.ones(first.shape[0], dtype=dtype, device=first.device)
    scale = sample_weights.to(dtype)
    flat_students, flat_targets = ([x.view(-1, x.shape[-1]) for x in features] for features in (students, targets))
    masks = [mask.reshape(-1) for mask in token_masks]
    if not powers and any("nmse" in terms for terms in weights):
        powers = [
            _power(found.view(target.shape[:2]), target, token_masks[layer] if token_masks else None)
            for layer, (found, target) in enumerate(zip(squares(flat_targets, masks, dtype), targets, strict=True))
        ]
    rates = []
    for layer, (student, terms) in enumerate(zip(students, weights, strict=True)):
        _, tokens, width = student.shape
        per_token = scale / (token_masks[layer].sum(dim=1).clamp_min(1) if token_masks else tokens)
        per_sample = {}
        if "mse" in terms:
            per_sample["squared"] = per_token * (terms["mse"] / width)
        if "nmse" in terms:
            normalised = per_token * (terms["nmse"] / width) / powers[layer].to(dtype).clamp_min(SMALLEST_POWER)
            per_sample["squared"] = per_sample["squared"] + normalised if "mse" in terms else normalised
        if "smooth_l1" in terms:
            per_sample["huber"] = per_token * (terms["smooth_l1"] / width)
        if "cosine" in terms:
            per_sample["cosine"] = per_token * terms["cosine"]
        rates.append({kind: rate.repeat_interleave(tokens) for kind, rate in per_sample.items()})
    sums, gradients = sums_and_gradients(flat_students, flat_targets, masks, rates, with_gradient)
    losses = torch.zeros(first.shape[0], dtype=dtype, device=first.device)
    for layer, (found, rate) in enumerate(zip(sums, rates, strict=True)):
        per_row = torch.zeros((), dtype=dtype, device=first.device)
        for kind in ("squared", "huber"):
            if kind in rate:
                per_row = per_row + rate[kind] * found[kind]
        if "cosine" in rate:
            distance = 1 - rows.cosine_of(found)[0]
            per_row = per_row + rate["cosine"] * (torch.where(masks[layer], distance, 0) if masks else distance)
        losses += per_row.view(students[layer].shape[:2]).sum(dim=1)
    return losses, [gradient.view(student.shape) for gradient, student in zip(gradients, students, strict=False)]


def target_power(target: Tensor, token_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Mean square of each sample's counting tokens, [B] in `dtype`; 0 for a sample without one."""
    masks = [] if token_mask is None else [token_mask.reshape(-1)]
    (found,) = rows.squares([target.reshape(-1, target.shape[-1])], masks, dtype)
    return _power(found.view(target.shape[:2]), target, token_mask)


def _power(squares: Tensor, target: Tensor, token_mask: Tensor | None) -> Tensor:
    tokens = max(target.shape[1], 1) if token_mask is None else token_mask.sum(dim=1).clamp_min(1)
    return squares.sum(dim=1) / (tokens * max(target.shape[2], 1))
