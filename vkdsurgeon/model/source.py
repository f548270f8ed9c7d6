"""The settings of every run: the checkpoint and the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from vkdsurgeon.data.modality import Modality
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A checkpoint, how it is held, and what draws begin with.

    Attributes:
        model: The checkpoint directory.
        device: Where it runs.
        dtype: What its weights are held in; float32 or bfloat16.
        seed: Seed of all random draws.
        tower: Module path of the tower, if the wrong one is found.
        projector: Module paths of the projector, if the wrong ones are found.
        modality: What the tower takes in.
    """

    model: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    seed: int = 0
    tower: str | None = None
    projector: Sequence[str] | None = None
    modality: Modality = "image"

    @property
    def source(self) -> dict[str, Any]:
        """These fields by name, for another object of the same source."""
        return {each.name: getattr(self, each.name) for each in fields(ModelSource)}

    def load_visual(self) -> VisualStack:
        """Load tower and projector.

        Raises:
            UserError: The checkpoint cannot be loaded.
        """
        return load_visual_stack(
            self.model,
            device=self.device,
            dtype=self.dtype,
            tower=self.tower,
            projector=self.projector,
            modality=self.modality,
        )
