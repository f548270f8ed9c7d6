"""Images (or clips of sound) and the features a frozen teacher gives them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from vkdsurgeon.data.media import medium_of
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.model.entering import Entering
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.replayed import ReplayedSample, entering_of
from vkdsurgeon.model.workers import in_order, thread_count

if TYPE_CHECKING:
    from vkdsurgeon.model.images import ImageBatch, PreparedImage
    from vkdsurgeon.model.vision import VisualStack

# More of them change the estimate little, and may lie on disk.
_SPREAD_OVER = 512
# Variance over images, as a share of the features' power, below which a teacher counts as collapsed.
LEAST_VARIATION = 5e-3

# From the indices of a batch's images and a device to what enters the first layer that is run.
Entered = Callable[[Sequence[int], torch.device], Entering]


class SampleSet:
    """Images ready for one tower: decoded and preprocessed once, as far as memory allows.

    Args:
        stack: The tower and projector, whose image processor prepares the images.
        samples: The images.
        cache_bytes: Most bytes of prepared images to keep; beyond that they are decoded again each time.
    """

    def __init__(
        self,
        stack: VisualStack,
        samples: Sequence[Sample],
        cache_bytes: int,
    ) -> None:
        self._stack = stack
        self.samples = tuple(samples)
        self.subjects = tuple(sample.subject for sample in samples)
        self._cache: dict[int, PreparedImage] = {}
        self._signatures: dict[int, Hashable] = {}
        self._pixelless: dict[tuple[Hashable, int], ImageBatch] = {}
        self._budget = cache_bytes
        self._entering: Entered | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def pass_over(self, entering: Entered | None) -> None:
        """From now on batches carry what frozen layers gave their images, so that these are not run again.

        Args:
            entering: Looks it up (`frozen_layers`); only right for as long as nothing of these layers is moved. The
                batches then have ones in the place of pixels. None runs all layers again.
        """
        self._entering = entering
        self._pixelless.clear()

    def prepared(self, index: int) -> PreparedImage:
        """One image as the image processor leaves it."""
        return self._several([index])[0]

    def sizes(self, most: int) -> dict[int, int]:
        """Bytes of the prepared image of each of at most so many images, spread evenly over the set."""
        tried = range(0, len(self), max(1, -(-len(self) // most)))
        return {index: image.nbytes for index, image in zip(tried, self._several(tried), strict=True)}

    def _several(self, indices: Sequence[int]) -> list[PreparedImage]:
        found: dict[int, PreparedImage] = {}
        missing = [index for index in dict.fromkeys(indices) if index not in self._cache]
        for index, image in zip(missing, self._made(missing), strict=True):
            found[index] = self._kept(index, image)
        return [found[index] if index in found else self._cache[index] for index in indices]

    def _made(self, indices: Sequence[int]) -> Iterator[PreparedImage]:
        return in_order(self._make, indices, thread_count())

    def _make(self, index: int) -> PreparedImage:
        sample = self.samples[index]
        if isinstance(sample, ReplayedSample):
            return sample.prepared
        medium = medium_of(sample.path)
        opened = medium.open(sample.path, where=sample.source, digest=sample.digest)
        opened = medium.varied(opened, sample) if sample.variant else opened
        return self._stack.prepare(opened, f"{sample.source} ({sample.path})")

    def _kept(self, index: int, image: PreparedImage) -> PreparedImage:
        self._signatures[index] = image.signature
        if image.nbytes <= self._budget and not isinstance(self.samples[index], ReplayedSample):
            self._budget -= image.nbytes
            self._cache[index] = image
        return image

    def batches(self, indices: Sequence[int], micro_batch: int) -> Iterator[tuple[list[int], ImageBatch]]:
        """Batches that the tower can take at once: images of one signature, so no padding anywhere.

        Args:
            indices: Which images.
            micro_batch: Most images per batch.

        Yields:
            The indices of a batch's images, and the batch.
        """
        unknown = [index for index in dict.fromkeys(indices) if index not in self._signatures]
        for index, image in zip(unknown, self._made(unknown), strict=True):
            self._kept(index, image)
        groups: dict[Hashable, list[int]] = {}
        for index in indices:
            groups.setdefault(self._signatures[index], []).append(index)
        for signature, group in groups.items():
            for start in range(0, len(group), micro_batch):
                part = group[start : start + micro_batch]
                yield part, self._batch(part, signature).with_entering(self._entered(part))

    def _batch(self, part: Sequence[int], signature: Hashable) -> ImageBatch:
        # Of layers that are not run nobody looks at pixels, and to join and move them costs as much as a small step.
        key = (signature, len(part))
        if key in self._pixelless:
            return self._pixelless[key]
        whole = self._stack.collate(self._several(part))
        if self._entering is None or not self._stack.looks_once(whole):
            return whole
        return self._pixelless.setdefault(key, whole.without_pixels(self._stack.device))

    def _entered(self, part: Sequence[int]) -> Entering | None:
        if self._entering is not None:
            return self._entering(part, self._stack.device)
        return entering_of([self.samples[index] for index in part], self._stack.device, self._stack.dtype)


class TeacherPass(Protocol):
    """What `teacher_features` does, by whoever does it."""

    def __call__(
        self, stack: VisualStack, samples: SampleSet, layers: Sequence[str], micro_batch: int, budget_bytes: int
    ) -> FeatureStore:
        """The features of every image at every layer."""


def teacher_features(
    stack: VisualStack, samples: SampleSet, layers: Sequence[str], micro_batch: int, budget_bytes: int
) -> FeatureStore:
    """Run the frozen teacher once over a set.

    Args:
        stack: Tower and projector as the checkpoint has them.
        samples: The set.
        layers: Tapped layers to keep.
        micro_batch: Most images per forward pass.
        budget_bytes: Most bytes of features to hold in memory.

    Returns:
        The features of every image at every layer.
    """
    store = FeatureStore(budget_bytes, leave=stack.training_bytes)
    for index, layer, value in features_of(stack, samples, range(len(samples)), layers, micro_batch):
        store.put(layer, index, value)
    return store


def features_of(
    stack: VisualStack, samples: SampleSet, indices: Sequence[int], layers: Sequence[str], micro_batch: int
) -> Iterator[tuple[int, str, Tensor]]:
    """Pass images without gradients; several processes take batches of them in turn, and all get all features.

    Args:
        stack: Tower and projector.
        samples: The set.
        indices: Which images.
        layers: Tapped layers.
        micro_batch: Most images per forward pass.

    Yields:
        Index, layer and features [N, D], in no particular order.
    """
    for block in stack.processes.blocks(indices, micro_batch):
        if stack.processes.count == 1:
            yield from _passed(stack, samples, block, layers, micro_batch)
            continue
        own = {f"{i} {layer}": value for i, layer, value in _passed(stack, samples, block, layers, micro_batch)}
        for found in stack.processes.tensors(own):
            for name, value in found.items():
                index, layer = name.split(" ", 1)
                yield int(index), layer, value


def _passed(
    stack: VisualStack, samples: SampleSet, indices: Sequence[int], layers: Sequence[str], micro_batch: int
) -> Iterator[tuple[int, str, Tensor]]:
    for part, batch in samples.batches(indices, micro_batch):
        with torch.no_grad():
            features = stack.features(batch, layers)
        for layer, values in features.items():
            for index, value in zip(part, values, strict=True):
                yield index, layer, value


def spread(features: Sequence[Tensor]) -> float:
    """How much the features of different images differ: the mean square of an element around its mean over images.

    Unlike their power it leaves out what all images share, which in real towers is most of it (massive activations,
    arXiv 2402.17762), so that an error can be told as a share of what there is to be read. Token positions are compared
    among images of one token count; where no two images share one, every token with the mean of all tokens.

    Args:
        features: One [N, D] per image; at most 512 of them, evenly chosen, are looked at.

    Returns:
        The unbiased estimate; at least 0.5 % of the features' power, below which a teacher counts as collapsed.
    """
    features = features[:: -(-len(features) // _SPREAD_OVER)]
    power = sum(float(value.float().square().mean()) for value in features) / len(features)
    return max(variance(features), LEAST_VARIATION * power, 1e-12)


def variance(features: Sequence[Tensor]) -> float:
    """What `spread` estimates, from all of these features and without its floor."""
    groups: dict[int, list[Tensor]] = {}
    for value in features:
        groups.setdefault(value.shape[0], []).append(value)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        several = [[token for value in features for token in value.float().unsqueeze(1)]]
    squares = elements = 0.0
    for group in several:
        mean = sum((value.float() for value in group[1:]), group[0].float()) / len(group)
        squares += sum(float((value.float() - mean).square().sum()) for value in group)
        elements += max(len(group) - 1, 1) * mean.numel()
    return squares / elements
