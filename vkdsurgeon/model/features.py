"""Images (or clips of sound) and the features a frozen teacher gives them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from vkdsurgeon_kernels import target_power

from vkdsurgeon.data.media import medium_of
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.model.entering import Entering
from vkdsurgeon.model.replayed import ReplayedSample, entering_of

if TYPE_CHECKING:
    from vkdsurgeon.model.images import ImageBatch, PreparedImage
    from vkdsurgeon.model.vision import VisualStack

# More of them change the estimate little, and may lie on disk.
_SPREAD_OVER = 512
# Variance over images, as a share of the features' power, below which a teacher counts as collapsed.
LEAST_VARIATION = 5e-3


# What is reserved on disk at once, and where a value may begin in it.
_MAPPED_BYTES, _ALIGNED = 1 << 26, 64
# From the indices of a batch's images and a device to what enters the first layer that is run.
Entered = Callable[[Sequence[int], torch.device], Entering]


class SampleSet:
    """Images ready for one tower: decoded and preprocessed once, as far as memory allows.

    Args:
        stack: The tower and projector, whose image processor prepares the images.
        samples: The images.
        cache_bytes: Most bytes of prepared images to keep; beyond that they are decoded again each time.
        alter: What every image goes through before it is prepared.
    """

    def __init__(
        self,
        stack: VisualStack,
        samples: Sequence[Sample],
        cache_bytes: int,
        *,
        alter: Callable[[Any, Sample], Any] | None = None,
    ) -> None:
        self._stack = stack
        self._alter = alter
        self.samples = tuple(samples)
        self.subjects = tuple(sample.subject for sample in samples)
        self._cache: dict[int, PreparedImage] = {}
        self._budget = cache_bytes
        self._entering: Entered | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def pass_over(self, entering: Entered | None) -> None:
        """From now on batches carry what frozen layers gave their images, so that these are not run again.

        Args:
            entering: Looks it up (`frozen_layers`); only right for as long as nothing of these layers is moved. None
                runs all layers again.
        """
        self._entering = entering

    def prepared(self, index: int) -> PreparedImage:
        """One image as the image processor leaves it."""
        if index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        if isinstance(sample, ReplayedSample):
            return sample.prepared
        medium = medium_of(sample.path)
        opened = medium.open(sample.path, where=sample.source, digest=sample.digest)
        opened = medium.varied(opened, sample) if sample.variant else opened
        image = self._stack.prepare(
            opened if self._alter is None else self._alter(opened, sample), f"{sample.source} ({sample.path})"
        )
        size = sum(value.nbytes for value in image.inputs.values())
        if size <= self._budget:
            self._budget -= size
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
        groups: dict[object, list[int]] = {}
        for index in indices:
            groups.setdefault(self.prepared(index).signature, []).append(index)
        for group in groups.values():
            for start in range(0, len(group), micro_batch):
                part = group[start : start + micro_batch]
                batch = self._stack.collate([self.prepared(index) for index in part])
                yield part, batch.with_entering(self._entered(part))

    def _entered(self, part: Sequence[int]) -> Entering | None:
        if self._entering is not None:
            return self._entering(part, self._stack.device)
        return entering_of([self.samples[index] for index in part], self._stack.device, self._stack.dtype)


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

    Args:
        budget_bytes: Most bytes to hold in memory.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._disk, self._begin = torch.empty(0, dtype=torch.uint8), 0
        self._values: dict[str, dict[int, Tensor | _OnDisk]] = {}
        self._powers: dict[str, dict[int, float]] = {}

    def put(self, layer: str, index: int, value: Tensor) -> None:
        """Keep one image's features [N, D] at a layer."""
        value = value.detach().to("cpu", copy=True)
        kept: Tensor | _OnDisk = value
        if value.nbytes > self._budget:
            kept = self._on_disk(value)
        else:
            self._budget -= value.nbytes
        self._values.setdefault(layer, {})[index] = kept
        # A number: small tensors between large ones that go keep the heap from shrinking.
        self._powers.setdefault(layer, {})[index] = float(target_power(value.unsqueeze(0)))

    def _on_disk(self, value: Tensor) -> _OnDisk:
        # Many in one file: the system lets a process map some 65,000 of them.
        if value.nbytes > len(self._disk) - self._begin:
            self._disk, self._begin = _mapped(max(value.nbytes, _MAPPED_BYTES)), 0
        kept = _OnDisk(self._disk, self._begin, value.shape, value.dtype)
        self._begin += -(-value.nbytes // _ALIGNED) * _ALIGNED
        kept.tensor.copy_(value)
        return kept

    def one(self, layer: str, index: int) -> Tensor:
        """One image's features [N, D] as they are kept, on the CPU."""
        kept = self._values[layer][index]
        return kept if isinstance(kept, Tensor) else kept.tensor

    def get(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Features [B, N, D] of images that share one token count."""
        return torch.stack([self.one(layer, index) for index in indices]).to(device, non_blocking=True)

    def powers(self, layer: str, indices: Sequence[int], device: torch.device) -> Tensor:
        """Mean square of each image's features, [B] float32; what normalised distances divide by."""
        rows = self._powers[layer]
        return torch.tensor([rows[index] for index in indices]).to(device, non_blocking=True)

    def all(self, layer: str) -> list[Tensor]:
        """The features [N, D] of every image at a layer, in order of their indices."""
        return [self.one(layer, index) for index in sorted(self._values[layer])]


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
    store = FeatureStore(budget_bytes)
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
