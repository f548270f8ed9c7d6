"""Which elements of one parameter move, laid out for the implementation that will move them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon_kernels.bitmask import BitMask
from vkdsurgeon_kernels.masked_adamw.operator import BITMAP, FULL, LIST


@dataclass(frozen=True)
class Selection:
    """A parameter's mask in the layout of its implementation.

    Attributes:
        mask: The mask itself, one bit per element.
        layout: `list`, `bitmap` or `full`, see `operator`.
        words: The mask's words for a bitmap, else empty.
        positions: The selected elements of a list; for a bitmap the selected elements before each block; else empty.
    """

    mask: BitMask
    layout: str
    words: Tensor
    positions: Tensor

    @classmethod
    def of(cls, mask: BitMask, implementation: str, *, eight_bit: bool) -> Selection:
        """Choose the layout.

        A list of positions has work for selected elements alone. Eight-bit moments have a scale per block of the
        parameter, which a GPU program over a bitmap holds whole.
        """
        if implementation == "triton" and eight_bit:
            before = mask.block_counts.cumsum(0) - mask.block_counts
            return cls(mask, BITMAP, mask.words, before)
        nothing = torch.empty(0, dtype=torch.int32, device=mask.device)
        if implementation != "triton" and mask.count == mask.numel():
            return cls(mask, FULL, nothing, nothing)
        return cls(mask, LIST, nothing, mask.indices())

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of the mask; a state that was made with another mask does not fit."""
        return zlib.crc32(self.mask.words.cpu().numpy().tobytes())

    def gather(self, tensor: Tensor) -> Tensor:
        """The selected elements of a tensor of the mask's shape, [K], in row-major order."""
        flat = tensor.reshape(-1)
        if self.layout == FULL:
            return flat.clone()
        return flat[self.positions.long()] if self.layout == LIST else flat[self.mask.to_bool().view(-1)]


def check_mask(parameter: Parameter, mask: Tensor | BitMask) -> None:
    """Check a mask against its parameter.

    Raises:
        ValueError: The mask is of another kind, shape or dtype, the parameter cannot be addressed element by element,
            or one of the two has no values.
    """
    if not isinstance(mask, (BitMask, Tensor)):
        raise ValueError(f"a mask is a {type(mask).__name__}; masks are BitMasks or bool tensors")
    if (isinstance(mask, Tensor) and mask.dtype != torch.bool) or mask.shape != parameter.shape:
        kind = "BitMask" if isinstance(mask, BitMask) else mask.dtype
        raise ValueError(
            f"a mask is {tuple(mask.shape)} {kind}, its parameter {tuple(parameter.shape)}: masks are BitMasks or bool "
            "tensors of the parameter's shape"
        )
    if "meta" in (parameter.device.type, mask.device.type):
        raise ValueError(
            f"a masked parameter is on {parameter.device}, its mask on {mask.device}: nothing is stored on meta; load "
            "the values first"
        )
    if not parameter.is_floating_point() or not parameter.is_contiguous():
        raise ValueError(
            f"a masked parameter is a contiguous tensor of real floating point, got {parameter.dtype} with shape "
            f"{tuple(parameter.shape)} and strides {parameter.stride()}; call .contiguous() before wrapping it"
        )
