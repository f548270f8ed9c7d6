"""Features of images as a frozen teacher gave them: in memory, beyond a bound on disk, and near the GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from vkdsurgeon_kernels import target_power

from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.model.device import room_for_copies

# What is reserved on disk at once, and where a value may begin in it.
_MAPPED_BYTES, _ALIGNED = 1 << 26, 64


class _OnDisk(NamedTuple):
    file: Tensor
    begin: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def tensor(self) -> Tensor:
        size = prod(self.shape) * self.dtype.itemsize
        return self.file[self.begin : self.begin + size].view(self.dtype).view(self.shape)


class FeatureStore:
    """Features of images at several layers: in memory up to a bound, beyond it in an unnamed temporary file.

    What a GPU asks for stays there as a copy, as far as there is room: to fetch the features of a step from main memory
    takes an H200 longer than to compute them anew (docs/studies/speed.md).

    Args:
        budget_bytes: Most bytes to hold in main memory.
        leave: Bytes of a GPU's free memory that copies leave free; None makes no copies.
    """

    def __init__(self, budget_bytes: int, *, leave: int | None = None) -> None:
        self._budget, self._leave = budget_bytes, leave
        self._disk, self._begin = torch.empty(0, dtype=torch.uint8), 0
        self._values: dict[str, dict[int, Tensor | _OnDisk]] = {}
        self._powers: dict[str, dict[int, float]] = {}
        self._copies: dict[tuple[torch.device, str, int], Tensor] = {}
        self._room: dict[torch.device, int] = {}

    def put(self, layer: str, index: int, value: Tensor) -> None:
        """Keep one image's features [N, D] at a layer."""
        for device in self._room:
            if (old := self._copies.pop((device, layer, index), None)) is not None:
                self._room[device] += old.nbytes
        near, value = value.detach(), value.detach().to("cpu", copy=True)
        self._copy(near.device, layer, index, near)
        kept: Tensor | _OnDisk = value
        if value.nbytes > self._budget:
            kept = self._on_disk(value)
        else:
            self._budget -= value.nbytes
        self._values.setdefault(layer, {})[index] = kept
        # A number: small tensors between large ones that go keep the heap from shrinking.
        self._powers.setdefault(layer, {})[index] = float(target_power(value.unsqueeze(0)))

    def power(self, layer: str, index: int) -> float:
        """Mean square of one image's features."""
        return self._powers[layer][index]

    def _on_disk(self, value: Tensor) -> _OnDisk:
        # Many in one file: the system lets a process map some 65,000 of them.
        if value.nbytes > len(self._disk) - self._begin:
            self._disk, self._begin = _mapped(max(value.nbytes, _MAPPED_BYTES)), 0
        kept = _OnDisk(self._disk, self._begin, value.shape, value.dtype)
        self._begin += -(-value.nbytes // _ALIGNED) * _ALIGNED
        kept.tensor.copy_(value)
        return kept

    def release(self) -> None:
        """Give back what copies take of a GPU's memory; no more are made."""
        self._copies.clear()
        self._room.clear()
        self._leave = None

    def _copy(self, device: torch.device, layer: str, index: int, value: Tensor) -> None:
        """Keep what lies on a device there, if it has room; a copy of its own, not a view of a whole batch."""
        if value.nbytes <= self._room_on(device):
            self._room[device] -= value.nbytes
            self._copies[device, layer, index] = value.clone()

    def _room_on(self, device: torch.device) -> int:
        if device not in self._room:
            self._room[device] = 0 if self._leave is None else room_for_copies(device, self._leave)
        return self._room[device]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that there are features of."""
        return tuple(self._values)

    def one(self, layer: str, index: int) -> Tensor:
        """One image's features [N, D] as they are kept, on the CPU."""
        kept = self._values[layer][index]
        return kept if isinstance(kept, Tensor) else kept.tensor

    def get(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Features [B, N, D] of images that share one token count."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        missing = [index for index in dict.fromkeys(indices) if (device, layer, index) not in self._copies]
        found: dict[int, Tensor] = {}
        if missing:
            moved = torch.stack([self.one(layer, index) for index in missing]).to(device, non_blocking=True)
            if len(missing) == len(indices) and self._room_on(device) < moved[0].nbytes:
                return moved
            found = dict(zip(missing, moved.unbind(), strict=True))
            for index, value in found.items():
                self._copy(device, layer, index, value)
        return torch.stack([found[i] if i in found else self._copies[device, layer, i] for i in indices])

    def powers(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Mean square of each image's features, [B] float32; what normalised distances divide by."""
        rows = self._powers[layer]
        return torch.tensor([rows[index] for index in indices]).to(device, non_blocking=True)

    def all(self, layer: str) -> list[Tensor]:
        """The features [N, D] of every image at a layer, in order of their indices."""
        return [self.one(layer, index) for index in sorted(self._values[layer])]


def _mapped(size: int) -> Tensor:
    # The file has no name once it is open, so features of forget images never outlive the process.
    with tempfile.NamedTemporaryFile(prefix="vkdsurgeon-features-") as file:
        try:
            # Reserved now: a disk that fills up later would kill the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise SurgeryError(
                f"{tempfile.gettempdir()}: no room for teacher features ({error.strerror}); nothing was written. "
                "Raise cache_gib, or point TMPDIR at a larger disk"
            ) from error
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
