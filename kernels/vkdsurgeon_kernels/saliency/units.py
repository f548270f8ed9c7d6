"""Selection by units larger than an element: rows, tensors, layers. A unit is selected as a whole or not at all.

A score tensor is cut into slices of one size (its rows, or itself as a single slice), and each slice belongs to a unit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from vkdsurgeon_kernels.bitmask import BitMask
from vkdsurgeon_kernels.saliency import values

_CHUNK = 1 << 22


def select(scores: Sequence[Tensor], count: int, units: Sequence[Tensor]) -> list[BitMask]:
    """Select the units with the largest mean score, as many as bring the number of elements nearest to a budget.

    Args:
        scores: float32 on one device.
        count: The budget in elements; where two numbers of units are equally near, the smaller is taken, and with a
            positive budget at least one unit.
        units: [slices] int64 per score: the unit of each slice, from `by_row`, `by_tensor` or `by_group`.

    Returns:
        One mask per score.

    Raises:
        ValueError: A negative or non-finite score.
    """
    values.check(scores)
    owner = torch.cat(list(units))
    widths = torch.cat([torch.full_like(unit, _width(score, unit)) for score, unit in zip(scores, units, strict=True)])
    sums = torch.cat([_sums(score, unit.numel()) for score, unit in zip(scores, units, strict=True)])
    amount = int(owner.max()) + 1 if owner.numel() else 0
    sizes = torch.zeros(amount, dtype=torch.int64).index_add_(0, owner, widths)
    means = torch.zeros(amount, dtype=torch.float64).index_add_(0, owner, sums) / sizes.clamp(min=1)
    ranked = torch.argsort(means, descending=True, stable=True)
    ranked = ranked[sizes[ranked] > 0]
    chosen = torch.zeros(amount, dtype=torch.bool)
    chosen[ranked[: _nearest(sizes[ranked].cumsum(0), count)]] = True
    return [_mask(score, chosen[unit]) for score, unit in zip(scores, units, strict=True)]


def by_row(scores: Sequence[Tensor]) -> list[Tensor]:
    """Each slice along the first dimension is a unit; of a vector or scalar, each element."""
    lengths = [score.shape[0] if score.dim() else 1 for score in scores]
    return list(torch.arange(sum(lengths)).split(lengths))


def by_tensor(scores: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor is a unit."""
    return by_group(range(len(scores)))


def by_group(groups: Sequence[Hashable]) -> list[Tensor]:
    """All tensors of one group are a unit; one group is named per score."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return [torch.tensor([numbers[group]]) for group in groups]


def _width(score: Tensor, unit: Tensor) -> int:
    return score.numel() // max(unit.numel(), 1)


def _sums(score: Tensor, slices: int) -> Tensor:
    """Sum of each slice, [slices] float64 on the CPU."""
    if score.numel() == 0:
        return torch.zeros(slices, dtype=torch.float64)
    table = score.reshape(slices, -1)
    # torch widens its input before it sums, so parts bound the memory.
    if slices > 1:
        rows = table.split(max(_CHUNK // table.shape[1], 1))
        return torch.cat([part.sum(dim=1, dtype=torch.float64) for part in rows]).cpu()
    return torch.stack([part.sum(dtype=torch.float64) for part in table[0].split(_CHUNK)]).sum(0, keepdim=True).cpu()


def _nearest(totals: Tensor, count: int) -> int:
    """How many units to take for their elements, [units] running totals, to come nearest to the budget."""
    if count == 0 or totals.numel() == 0:
        return 0
    return int((totals - count).abs().argmin()) + 1


def _mask(score: Tensor, chosen: Tensor) -> BitMask:
    if score.numel() == 0:
        return BitMask.from_bool(torch.zeros_like(score, dtype=torch.bool))
    whole = chosen.to(score.device).unsqueeze(1).expand(-1, score.numel() // chosen.numel())
    return BitMask.from_bool(whole.reshape(score.shape))
