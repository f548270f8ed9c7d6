"""Number formats for quantisation: weights are rounded to few bits and converted back."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

# QLoRA (arXiv 2305.14314), section 3 and appendix E: where the outermost quantile lies.
_OFFSET = 0.9677083


@dataclass(frozen=True)
class Format:
    """One number format.

    Attributes:
        name: `int8`, `int4` or `nf4`.
        bits: Per weight.
        group_size: Weights of one output channel that share a scale; 0 for all of them.
    """

    name: str
    bits: int
    group_size: int


FORMATS = {"int8": Format("int8", 8, 0), "int4": Format("int4", 4, 0), "nf4": Format("nf4", 4, 64)}


def normal_float() -> tuple[float, ...]:
    """The sixteen levels of NF4, from -1 to 1: quantiles of the normal distribution, with an exact zero.

    Eight quantiles above zero and seven below it, evenly spaced in probability (QLoRA, arXiv 2305.14314, equation 4).
    """
    normal = NormalDist()
    above = [normal.inv_cdf(_OFFSET + (0.5 - _OFFSET) * step / 8) for step in range(8)]
    below = [-normal.inv_cdf(_OFFSET + (0.5 - _OFFSET) * step / 7) for step in range(7)]
    largest = max(above)
    return tuple(level / largest for level in sorted([*below, 0.0, *above]))


def encode(weight: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    """Quantise a weight, symmetric, round to nearest, one scale per output channel or group of it.

    Integers: s = max |w| / (2^(b-1) - 1), q = round(w / s). NF4: s = max |w|, q = the nearest level to w / s.

    Args:
        weight: [out, ...], floating point; groups run along what follows the first dimension, and the last one of a row
            may be shorter.
        form: The format.

    Returns:
        Codes int16 [out, groups, group size], zero where a row is shorter, and scales float32 [out, groups, 1].
    """
    grouped = _grouped(weight.detach().float(), form.group_size)
    largest = grouped.abs().amax(dim=2, keepdim=True)
    if form.name == "nf4":
        levels = torch.tensor(normal_float(), device=weight.device)
        shares = torch.where(largest > 0, grouped / largest, 0.0)
        return torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2).to(torch.int16), largest
    scale = largest / (2 ** (form.bits - 1) - 1)
    return torch.where(scale > 0, grouped / scale, 0.0).round().to(torch.int16), scale


def decode(codes: Tensor, scale: Tensor, form: Format, like: Tensor) -> Tensor:
    """Back from codes: a tensor of the shape, dtype and device of `like`."""
    if form.name == "nf4":
        values = torch.tensor(normal_float(), device=codes.device)[codes.long()] * scale
    else:
        values = codes.float() * scale
    return values.reshape(like.shape[0], -1)[:, : like[0].numel()].reshape(like.shape).to(like)


def round_trip(weight: Tensor, form: Format) -> Tensor:
    """The weight as the format would hold it, in its own shape and dtype."""
    return decode(*encode(weight, form), form, weight)


def same_code(weight: Tensor, other: Tensor, form: Format) -> Tensor:
    """Mask of weights that both tensors round to the same code, each under its own scale.

    Returns:
        bool, of the weights' shape.
    """
    same = encode(weight, form)[0] == encode(other, form)[0]
    return same.reshape(weight.shape[0], -1)[:, : weight[0].numel()].reshape(weight.shape)


def _grouped(weight: Tensor, group_size: int) -> Tensor:
    rows = weight.reshape(weight.shape[0], -1)
    size = min(group_size, rows.shape[1]) or rows.shape[1]
    missing = -rows.shape[1] % size
    return torch.nn.functional.pad(rows, (0, missing)).reshape(rows.shape[0], -1, size)
