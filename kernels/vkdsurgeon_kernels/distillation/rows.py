"""The passes over the features, token by token: plain functions, run as they are or compiled.

Every reduction goes along one token's row and returns as it is, and the gradient of a row depends on the row's own
sums. `torch.compile` then makes one loop over rows, which finishes a row while it is in the first-level cache; any
arithmetic between rows in here would break that loop in two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vkdsurgeon_kernels.distillation.formula import SMALLEST_SQUARE


def squares(targets: list[Tensor], masks: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Squared norm of each token, [R] in `dtype`, for L tensors [R, D]; masks as in `sums_and_gradients`."""
    found = []
    for layer, target in enumerate(targets):
        wide = target.to(dtype)
        if masks:
            wide = torch.where(masks[layer][:, None], wide, 0)
        found.append(wide.square().sum(dim=-1))
    return found


def sums_and_gradients(
    students: list[Tensor],
    targets: list[Tensor],
    masks: list[Tensor],
    rates: list[dict[str, Tensor]],
    with_gradient: bool,
) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Sums over each token's features, and the derivative of the weighted distances.

    Args:
        students: L tensors [R, D].
        targets: L tensors [R, D].
        masks: L tensors [R] bool, False for rows to be taken as zeros; or none.
        rates: For each layer and kind of distance that occurs there (`squared`, `huber`, `cosine`), a weight per
            row, [R] in the computing dtype.
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
            cosine, s_inverse, t_inverse = cosine_of(found)
            along, across = (rate["cosine"] * s_inverse * other for other in (cosine * s_inverse, t_inverse))
            slope = slope + (along[:, None] * s - across[:, None] * t)
        sums.append(found)
        if with_gradient:
            gradients.append(slope.to(student.dtype))
    return sums, gradients


def cosine_of(sums: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each token and the inverse norms of student and target, 0 where there is no direction; all [R]."""
    s_inverse, t_inverse = (torch.where(sums[name] > SMALLEST_SQUARE, sums[name].rsqrt(), 0) for name in ("ss", "tt"))
    return sums["st"] * s_inverse * t_inverse, s_inverse, t_inverse


def _tied(rate: Tensor, total: Tensor) -> Tensor:
    # The comparison holds for every sum but NaN: it exists to make the row's gradient wait for the row's sum.
    return torch.where(total >= 0, rate, torch.nan)
