"""Images that are gone: what the frozen layers of the tower returned for them is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vkdsurgeon.data.samples import Sample
from vkdsurgeon.model.entering import Entering, laid_out
from vkdsurgeon.model.images import PreparedImage


@dataclass(frozen=True, kw_only=True)
class ReplayedSample(Sample):
    """One of them, in the place of a file.

    Attributes:
        prepared: What the tower is given with it; ones in the place of pixels. No image that is there has its
            signature.
        activation: [N, D], what the last frozen layer returned.
        frozen: Module paths of the frozen layers.
        shape: As in `KeptActivations`.
        copies: What it returned for altered copies of the image, [N, D], by their `variant`.
    """

    prepared: PreparedImage = field(compare=False)
    activation: Tensor = field(compare=False, repr=False)
    frozen: tuple[str, ...]
    shape: tuple[int, ...]
    copies: Mapping[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def altered(self, variant: int) -> ReplayedSample:
        """The altered copy of that number, which must be there."""
        return replace(self, variant=variant, activation=self.copies[variant], copies={})


def entering_of(samples: Sequence[Sample], device: torch.device, dtype: torch.dtype) -> Entering | None:
    """What enters the trained layers for images of one batch; None where their files are there.

    Args:
        samples: The images of one batch, whose prepared tensors have equal shapes.
        device: The tower's device.
        dtype: The dtype that the tower's layers return.
    """
    replayed = [sample for sample in samples if isinstance(sample, ReplayedSample)]
    if not replayed:
        return None
    values = torch.stack([sample.activation for sample in replayed]).to(device, dtype)
    return Entering(replayed[0].frozen, laid_out(values, replayed[0].shape))
