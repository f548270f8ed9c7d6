"""A mask over the elements of a tensor, one bit each: an eighth of a bool tensor's bytes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BLOCK = 1024
"""Elements per block. Words are padded with zeros to whole blocks, so that a kernel never asks where a tensor ends."""

_WORDS_PER_BLOCK = BLOCK // 32
_CHUNK_BLOCKS = 1 << 12


class BitMask:
    """Which elements of a tensor are selected.

    Bit `i % 32` of word `i // 32` stands for element `i` in row-major order. The words are unsigned; they are held as
    int32 because torch has little uint32 arithmetic.

    Args:
        words: [32 * ceil(n / 1024)] int32, bits beyond the last element zero.
        shape: Shape of the masked tensor, n elements.

    Raises:
        ValueError: The number of words does not fit the shape.
    """

    def __init__(self, words: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
        self.words = words
        self.shape = torch.Size(shape)
        expected = word_count(self.shape.numel())
        if words.dtype != torch.int32 or words.shape != (expected,):
            raise ValueError(
                f"a mask of shape {tuple(shape)} has [{expected}] int32 words, got {tuple(words.shape)} {words.dtype}"
            )

    @classmethod
    def from_bool(cls, mask: Tensor) -> BitMask:
        """Pack a bool tensor of any shape."""
        if mask.dtype != torch.bool:
            raise ValueError(f"a mask is a bool tensor, got {mask.dtype}")
        flat = mask.detach().reshape(-1)
        length = word_count(flat.numel()) * 4
        if mask.device.type == "cpu":
            packed = np.zeros(length, dtype=np.uint8)
            bits = np.packbits(flat.numpy(), bitorder="little")
            packed[: bits.size] = bits
            return cls(torch.from_numpy(packed.view(np.int32)), mask.shape)
        padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, length * 8 - flat.numel()))
        weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=mask.device)
        return cls((padded.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8).view(torch.int32), mask.shape)

    def to_bool(self) -> Tensor:
        """The mask as a bool tensor of its shape."""
        if self.device.type == "cpu":
            bits = np.unpackbits(self.words.numpy().view(np.uint8), count=self.numel(), bitorder="little")
            return torch.from_numpy(bits.view(np.bool_)).view(self.shape)
        shifts = torch.arange(8, dtype=torch.uint8, device=self.device)
        bits_of = (self.words.view(torch.uint8).unsqueeze(1) >> shifts) & 1
        return bits_of.view(-1)[: self.numel()].to(torch.bool).view(self.shape)

    def indices(self) -> Tensor:
        """Positions of the selected elements in row-major order, [count], int32 where that suffices, else int64."""
        found = self.to_bool().view(-1).nonzero().view(-1)
        return found if self.numel() > 1 << 31 else found.to(torch.int32)

    @cached_property
    def block_counts(self) -> Tensor:
        """[ceil(n / 1024)] int64: selected elements of each block."""
        blocks = self.words.view(-1, _WORDS_PER_BLOCK)
        counts = [_popcount(part).sum(dim=1, dtype=torch.int64) for part in blocks.split(_CHUNK_BLOCKS)]
        return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64, device=self.device)

    @cached_property
    def count(self) -> int:
        """Number of selected elements."""
        return int(self.block_counts.sum())

    @property
    def density(self) -> float:
        """Share of the elements that are selected."""
        return self.count / max(self.numel(), 1)

    @property
    def device(self) -> torch.device:
        """The device of the mask."""
        return self.words.device

    def numel(self) -> int:
        """Number of elements of the masked tensor."""
        return self.shape.numel()

    def rows(self) -> Tensor | None:
        """Selected rows [R] int64 if each slice along the first dimension is selected as a whole or not at all."""
        if len(self.shape) < 2 or self.numel() == 0:
            return None
        per_row = self.to_bool().view(self.shape[0], -1)
        whole = per_row.all(dim=1)
        return whole.nonzero().view(-1) if bool((whole == per_row.any(dim=1)).all()) else None

    def to(self, device: torch.device | str) -> BitMask:
        """The mask on another device."""
        return BitMask(self.words.to(device), self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitMask) and self.shape == other.shape and torch.equal(self.words, other.words)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"BitMask({tuple(self.shape)}, {self.count} selected, {self.device})"


def word_count(elements: int) -> int:
    """Words of a mask over so many elements, padded to whole blocks."""
    return -(-elements // BLOCK) * _WORDS_PER_BLOCK


def _popcount(words: Tensor) -> Tensor:
    # Shifts of int32 are arithmetic; every shifted value is masked, so the copied sign bits never count.
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24) & 0x3F
