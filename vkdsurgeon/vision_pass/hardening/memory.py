"""What hardening needs beside the student."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import Parameter

from vkdsurgeon.config.recipe import Recipe


def hardening_bytes(weights: Sequence[Parameter], selected: int, recipe: Recipe) -> int:
    """Bytes beyond those of plain unlearning; activations and heads, which are small, left out.

    Args:
        weights: Parameters of tower and projector.
        selected: Elements that may move.
        recipe: The settings.
    """
    elements = sum(weight.numel() for weight in weights)
    needed = 0
    if recipe.tamper_weight:
        # A copy of the weights, float32 offsets, and for a moment the gradient.
        needed += sum(2 * weight.nbytes for weight in weights) + 4 * elements
        needed += 4 * elements * (recipe.tamper_horizon is not None)
    return needed
