"""The passes over the features: plain functions, run as they are or compiled.

The work is cut so that `torch.compile` makes one loop over tokens of the pass that writes the gradient, finishing a
token's row while it is in the first-level cache: every reduction goes along a row and returns as it is, and the
gradient of a row depends on the row's own sums. Arithmetic between rows, in the same function, would break the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vkdsurgeon_kernels.distillation.formula import SMALLEST_POWER, SMALLEST_SQUARE

Rates = dict[str, Tensor]
"""By kind of distance (`squared`, `huber`, `cosine`): the weight of each of R = B * N tokens, [R]."""


def rates(
    targets: list[Tensor], masks: list[Tensor], factors: list[dict[str, Tensor]], powers: list[Tensor]
) -> list[Rates]:
    """How much each token counts.

    Args:
        targets: L tensors [B, N, D].
        masks: L tensors [B, N] bool, or none.
        factors: For each layer, the weight of each distance for each sample, [B] in the computing dtype.
        powers: L tensors [B], or none: computed where `nmse` occurs.

    Returns:
        L rates; those of masked tokens are arbitrary.
    """
    found = []
    for layer, (target, factor) in enumerate(zip(targets, factors, strict=True)):
        _, tokens, width = target.shape
        mask = masks[layer] if masks else None
        total = tokens if mask is None else mask.sum(dim=1).clamp_min(1)
        rate: Rates = {}
        if "mse" in factor:
            rate["squared"] = factor["mse"] / (total * width)
        if "nmse" in factor:
            dtype = factor["nmse"].dtype
            power = powers[layer].to(dtype) if powers else target_power(target, mask, dtype)
            normalised = factor["nmse"] / (total * width) / power.clamp_min(SMALLEST_POWER)
            rate["squared"] = rate["squared"] + normalised if "mse" in factor else normalised
        if "smooth_l1" in factor:
            rate["huber"] = factor["smooth_l1"] / (total * width)
        if "cosine" in factor:
            rate["cosine"] = factor["cosine"] / total
        found.append({kind: value[:, None].expand(-1, tokens).reshape(-1) for kind, value in rate.items()})
    return found


def sums_and_gradients(
    students: list[Tensor], targets: list[Tensor], masks: list[Tensor], rates: list[Rates], with_gradient: bool
) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Sums over each token's features, and the derivative of the weighted distances.

    Args:
        students: L tensors [R, D].
        targets: L tensors [R, D].
        masks: L tensors [R] bool, False for rows to be taken as zeros; or none.
        rates: L rates, at least one kind each; computed in their dtype.
        with_gradient: Whether derivatives are wanted.

    Returns:
        For each layer, [R] sums by name (`squared` of |s - t|^2, `huber`, `ss`, `tt`, `st`), and the derivatives [R, D]
        in the student's dtype (none unless wanted).
    """
    sums, gradients = [], []
    for layer, (student, target) in enumerate(zip(students, targets, strict=True)):
        rate = rates[layer]
        dtype = next(iter(rate.values())).dtype
        s, t = student.to(dtype), target.to(dtype)
        if masks:
            counts = masks[layer][:, None]
            s, t = torch.where(counts, s, 0), torch.where(counts, t, 0)
        found, slope = {}, torch.zeros((), dtype=dtype, device=s.device)
        difference = s - t
        if "squared" in rate:
            found["squared"] = difference.square().sum(dim=-1)
            slope = slope + _tied(2 * rate["squared"], found["squared"])[:, None] * difference
        if "huber" in rate:
            # h (|x| - h / 2) with h = min(|x|, 1) is x^2 / 2 inside the threshold and |x| - 1/2 outside.
            absolute = difference.abs()
            inside = absolute.clamp_max(1)
            found["huber"] = (inside * (absolute - 0.5 * inside)).sum(dim=-1)
            slope = slope + _tied(rate["huber"], found["huber"])[:, None] * difference.clamp(-1, 1)
        if "cosine" in rate:
            found["ss"], found["tt"] = s.square().sum(dim=-1), t.square().sum(dim=-1)
            found["st"] = (s * t).sum(dim=-1)
            cosine, s_inverse, t_inverse = _cosine(found)
            along, across = (rate["cosine"] * s_inverse * other for other in (cosine * s_inverse, t_inverse))
            slope = slope + (along[:, None] * s - across[:, None] * t)
        sums.append(found)
        if with_gradient:
            gradients.append(slope.to(student.dtype))
    return sums, gradients


def loss(sums: dict[str, Tensor], rates: Rates, mask: Tensor | None, batch: int) -> Tensor:
    """Loss of each sample at one layer, [B], from the sums and rates of its tokens."""
    parts = [_weighted(rates[kind], sums[kind], batch) for kind in ("squared", "huber") if kind in rates]
    if "cosine" in rates:
        distance = 1 - _cosine(sums)[0]
        if mask is not None:
            distance = torch.where(mask, distance, 0)
        parts.append(_weighted(rates["cosine"], distance, batch))
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def target_power(target: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Mean square of each sample's counting tokens, [B] in `dtype`; 0 for a sample without one."""
    _, tokens, width = target.shape
    squares = target.to(dtype).square().sum(dim=-1)
    if mask is None:
        return squares.sum(dim=1) / max(tokens * width, 1)
    # What a masked token holds, NaN perhaps, must not be multiplied by zero.
    return torch.where(mask, squares, 0).sum(dim=1) / (mask.sum(dim=1).clamp_min(1) * max(width, 1))


def _cosine(sums: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each token, inverse norms of student and target, 0 where there is no direction; all [R]."""
    s_inverse, t_inverse = (torch.where(sums[name] > SMALLEST_SQUARE, sums[name].rsqrt(), 0) for name in ("ss", "tt"))
    return sums["st"] * s_inverse * t_inverse, s_inverse, t_inverse


def _weighted(rate: Tensor, values: Tensor, batch: int) -> Tensor:
    return torch.linalg.vecdot(rate.view(batch, -1), values.view(batch, -1))


def _tied(rate: Tensor, total: Tensor) -> Tensor:
    # The comparison holds for every sum but NaN: it exists to make the row's gradient wait for the row's sum.
    return torch.where(total >= 0, rate, torch.nan)
