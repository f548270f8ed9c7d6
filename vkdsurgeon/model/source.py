"""The settings of every run: the checkpoint and the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from vkdsurgeon.data.modality import Modality
from vkdsurgeon.model.device_map import DeviceMap
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.model.processes import ALONE, Processes
from vkdsurgeon.model.vision import VisualStack


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A checkpoint, how it is held, and what draws begin with.

    Attributes:
        model: The checkpoint directory.
        device: Where it runs.
        device_map: Where the whole model may lie instead, where it is loaded; tower and projector alone stay on
            `device`.
        dtype: What its weights are held in; float32 or bfloat16.
        mixed: Whether tower and projector compute in mixed precision, see `precision`; None where that is faster.
        seed: Seed of all random draws.
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, if the wrong ones are found.
        processes: Those that make the run together.
        modality: What the tower takes in.
    """

    model: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_map: DeviceMap | None = None
    dtype: torch.dtype = torch.float32
    mixed: bool | None = False
    seed: int = 0
    tower: str | None = None
    projector: Sequence[str] | None = None
    processes: Processes = ALONE
    modality: Modality = "image"

    @property
    def source(self) -> dict[str, Any]:
        """These fields by name, for another object of the same source."""
        return {each.name: getattr(self, each.name) for each in fields(ModelSource)}

    def load_visual(self) -> VisualStack:
        """Load tower and projector; where `mixed` is None, `choose_precision` decides once there are images.

        Raises:
            UserError: The checkpoint cannot be loaded.
        """
        stack = load_visual_stack(
            self.model,
            device=self.device,
            dtype=self.dtype,
            tower=self.tower,
            projector=self.projector,
            modality=self.modality,
        )
        stack.mixed = bool(self.mixed)
        stack.processes = self.processes
        return stack

    def load_whole(self, dtype: torch.dtype | None = None) -> LoadedModel:
        """Load the whole model.

        Args:
            dtype: What its weights are held in; None for `dtype` of the run.

        Raises:
            UserError: The checkpoint cannot be loaded.
        """
        name = str(dtype or self.dtype).removeprefix("torch.")
        return load_model(self.model, device=str(self.device), dtype=name, device_map=self.device_map)
