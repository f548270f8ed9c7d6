"""The outcome of training: changed tensors, mask, last step and times."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vkdsurgeon.training.events import Step
from vkdsurgeon.training.saliency import SaliencyMask


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """The result of training a pass or a baseline.

    Attributes:
        changes: Name on disk -> new tensor in the shape and dtype on disk, of every tensor with a selected element.
        mask: Which elements might move, by module parameter.
        last: The last step; None where nothing was trained.
        seconds: Wall time per stage.
    """

    changes: dict[str, Tensor]
    mask: SaliencyMask
    last: Step | None
    seconds: dict[str, float]
