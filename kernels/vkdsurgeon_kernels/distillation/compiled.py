"""Losses and gradients in one compiled pass over the features.

Autograd over the naive formula reads student and target again in backward; here the student's gradient is written
while both are in the cache, so memory traffic is one read of each and one write (and for `nmse` one more read of the
target, whose mean square must be known first).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vkdsurgeon_kernels.compilation import compiled
from vkdsurgeon_kernels.distillation import reference, rows

# One call for several layers saves its overhead; the time to compile grows with their number.
_LAYERS_PER_CALL = 4


def losses_and_gradients(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    weights: list[dict[str, float]],
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    """As `reference.losses_and_gradients`; compiled once for each dtype and choice of distances, for every size."""
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    for start in range(0, len(students), _LAYERS_PER_CALL):
        part = slice(start, start + _LAYERS_PER_CALL)
        variant = (
            (students[0].dtype, targets[0].dtype, bool(token_masks), with_gradient),
            tuple(tuple(terms) for terms in weights[part]),
        )
        # Without a pass over the targets these are a few numbers per sample, dearer to launch than to compute.
        reads_targets = not powers and any("nmse" in terms for terms in weights[part])
        loss, found = reference.losses_and_gradients(
            students[part],
            targets[part],
            token_masks[part],
            sample_weights,
            powers[part],
            weights[part],
            with_gradient,
            compiled(rows.rates, variant) if reads_targets else rows.rates,
            compiled(rows.sums_and_gradients, variant),
        )
        losses.append(loss)
        gradients += found
    return (losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)), gradients
