"""Frozen layers run once per image: their stored output is the input of the first trained layer.

As long as nothing of them is trained, the first layers of a tower give an image the same activations in every step.
What the last of them returned is kept per image, and in later passes these layers hand it on without any work. Whether
a tower stays the same under this is not assumed: `kept_activations` runs images both ways.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from vkdsurgeon.model.entering import Entering, laid_out
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.vision import VisualStack

# Sums of matrix products differ by rounding between batches of other sizes: in units of rounding, and at most.
_ROUNDING, _MOST_ROUNDING = 64.0, 0.05
# Images that are run both ways.
_TRIED = 4


def frozen_layers(stack: VisualStack, trained: Collection[str], watched: Collection[str]) -> tuple[str, ...]:
    """The first layers of the tower that need not be run again.

    Args:
        stack: Tower and projector.
        trained: Names of the parameters that move.
        watched: Layers whose features are asked for.

    Returns:
        Names as features are tapped, in order: the layers before the first that is trained, or that something trained
        lies before, or that is watched.
    """
    paths = tuple(f"{path}." for path in stack.taps.values())
    outside = {name for name in trained if not name.startswith(paths)}
    if outside - _following(stack):
        return ()
    names = list(stack.taps)
    busy = [
        number
        for number, (name, path) in enumerate(zip(names, paths, strict=True))
        if name in watched or any(parameter.startswith(path) for parameter in trained)
    ]
    return tuple(names[: min(busy, default=len(names))])


def parameters_after(stack: VisualStack, frozen: Collection[str]) -> dict[str, Parameter]:
    """Parameters that frozen layers feed: those of later layers, of what follows the layers, and of the projector.

    Args:
        stack: Tower and projector.
        frozen: Names of the layers, as `frozen_layers` gives them; none gives every parameter.
    """
    if not frozen:
        return stack.visual_parameters()
    later = tuple(f"{path}." for name, path in stack.taps.items() if name not in frozen)
    follow = _following(stack)
    return {
        name: value for name, value in stack.visual_parameters().items() if name in follow or name.startswith(later)
    }


def _following(stack: VisualStack) -> set[str]:
    return stack.behind_layers() | set(stack.split.placement.projector_parameters)


@dataclass(frozen=True)
class KeptActivations:
    """What the last frozen layer gave each image of a set.

    Attributes:
        frozen: Module paths of the frozen layers.
        layer: Name of the last of them.
        store: Its output for every image, [N, D].
        shape: Shape of that output for one image in the tower: [N, D] if images are packed end to end, [1, N, D], or
            [tiles, N, D].
    """

    frozen: tuple[str, ...]
    layer: str
    store: FeatureStore
    shape: tuple[int, ...]

    def entering(self, indices: Sequence[int], device: torch.device) -> Entering:
        """For the images of one batch."""
        return Entering(self.frozen, laid_out(self.store.get(self.layer, indices, device), self.shape))


def output_of(stack: VisualStack, images: SampleSet, layer: str) -> Tensor | None:
    """A layer's output for the first image of a set: [N, D] or [tiles, N, D]; None where it is not one such tensor."""
    found: list[Any] = []
    hook = stack.model.get_submodule(stack.taps[layer]).register_forward_hook(lambda *call: found.append(call[2]))
    try:
        with torch.no_grad():
            stack.features(next(iter(images.batches([0], 1)))[1])
    finally:
        hook.remove()
    whole = len(found) == 1 and isinstance(found[0], Tensor) and found[0].dim() in (2, 3)
    return found[0] if whole else None


def kept_activations(
    stack: VisualStack,
    images: SampleSet,
    frozen: Sequence[str],
    shape: tuple[int, ...],
    store: FeatureStore,
    layers: Sequence[str],
) -> KeptActivations | None:
    """What lets the frozen layers be passed over, or None where this tower's features would be others.

    Args:
        stack: At the weights that `store` was made with.
        images: The set.
        frozen: From `frozen_layers`, at least one.
        shape: Shape of the output of the last of these for one image, see `output_of`.
        store: Features of the set at the last of these and at `layers`.
        layers: What is compared.
    """
    kept = KeptActivations(tuple(stack.taps[name] for name in frozen), frozen[-1], store, shape)
    # Each twice, so that no shape is tried in a batch of one only.
    tried = sorted([*range(0, len(images), max(1, -(-len(images) // _TRIED)))] * 2)
    for part, batch in images.batches(tried, len(tried)):
        try:
            with torch.no_grad():
                seen = batch.without_pixels(stack.device) if stack.looks_once(batch) else batch
                found = stack.features(seen.with_entering(kept.entering(part, stack.device)), layers)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            return None
        if not all(_same(found[layer], store.get(layer, part, stack.device)) for layer in layers):
            return None
    return kept


def _same(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    limit = min(_ROUNDING * torch.finfo(expected.dtype).eps, _MOST_ROUNDING)
    limit *= float(expected.float().square().mean().sqrt())
    return float((found.float() - expected.float()).square().mean().sqrt()) <= limit
