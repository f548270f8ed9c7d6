"""Losses and gradients in plain PyTorch, by explicit formula rather than autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon_kernels.distillation import rows


def losses_and_gradients(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    weights: list[dict[str, float]],
    with_gradient: bool,
    find_rates: Callable[..., list[rows.Rates]] = rows.rates,
    find_sums: Callable[..., Any] = rows.sums_and_gradients,
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
        find_rates: `rows.rates`, possibly compiled.
        find_sums: `rows.sums_and_gradients`, possibly compiled.

    Returns:
        [B] in the computing dtype, and L tensors like the students (none unless wanted).
    """
    first = students[0]
    batch, dtype = first.shape[0], torch.promote_types(first.dtype, torch.float32)
    if sample_weights is None:
        sample_weights = torch.ones(batch, dtype=dtype, device=first.device)
    scale = sample_weights.to(dtype)
    factors = [{name: scale * weight for name, weight in terms.items()} for terms in weights]
    rates = find_rates(targets, token_masks, factors, powers)
    masks = [mask.reshape(-1) for mask in token_masks]
    sums, gradients = find_sums(
        *([features.view(-1, features.shape[-1]) for features in layers] for layers in (students, targets)),
        masks,
        rates,
        with_gradient,
    )
    losses = [
        rows.loss(found, rate, masks[layer] if masks else None, batch)
        for layer, (found, rate) in enumerate(zip(sums, rates, strict=True))
    ]
    return torch.stack(losses).sum(dim=0), [
        gradient.view(student.shape) for gradient, student in zip(gradients, students, strict=False)
    ]
