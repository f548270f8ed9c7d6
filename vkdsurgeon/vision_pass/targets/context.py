"""What every forget target is made from, and what it is made into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from vkdsurgeon.config import Recipe
from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.model.features import FeatureStore
from vkdsurgeon.vision_pass.identity_classifier import IdentityModel, IdentityReader
from vkdsurgeon.vision_pass.target_readings import TargetReading, own_readings
from vkdsurgeon.vision_pass.targets.identity_shift import centroids

# A reader holds one float32 vector of a whole image's features per subject.
_READER_ELEMENTS = 1 << 28
_FEWEST_READ = 32


@dataclass(frozen=True)
class TargetContext:
    """What a strategy may look at.

    Attributes:
        recipe: The settings.
        forget: The teacher's features t(x) of the forget images at each of the recipe's layers.
        keep: The retention teacher's features of the retain and generic images.
        forget_subjects: The subject of each forget image.
        keep_subjects: The subject of each kept image.
        forget_known: The forget images that identities are estimated from: no altered copies, nothing held out.
        keep_known: The same of the kept images.
        forget_held_out: Forget images that were held out, no copies.
        keep_held_out: The same of the kept images.
        generator: Source of draws.
        altered: Runs the teacher over the forget images after they went through a function of image and file.
        reference: Runs the reference model of `--forget-teacher` over the forget images; None without one.
        empty: Makes an empty store within the memory that the recipe grants.
    """

    recipe: Recipe
    forget: FeatureStore
    keep: FeatureStore
    forget_subjects: tuple[str, ...]
    keep_subjects: tuple[str, ...]
    forget_known: Sequence[int]
    keep_known: Sequence[int]
    generator: torch.Generator
    altered: Callable[[Callable[[Image.Image, Picture], Image.Image]], FeatureStore]
    reference: Callable[[], FeatureStore] | None
    empty: Callable[[], FeatureStore]
    forget_held_out: Sequence[int] = ()
    keep_held_out: Sequence[int] = ()
    _known: dict[str, tuple[IdentityModel, IdentityReader]] = field(default_factory=dict)

    @property
    def forgotten(self) -> list[str]:
        """The forgotten subjects, in order of first appearance."""
        return list(dict.fromkeys(self.forget_subjects[index] for index in self.forget_known))

    @property
    def kept(self) -> list[str]:
        """The kept subjects, in order of first appearance; one that is forgotten as well is not among them."""
        kept = dict.fromkeys(self.keep_subjects[index] for index in self.keep_known)
        return [subject for subject in kept if subject not in set(self.forgotten)]

    def identities(self, layer: str) -> IdentityModel:
        """Identities at a layer, of the forgotten and of the kept subjects.

        Centroids are [N, D], or [1, D] where N varies, and where identities are read better without positions: what a
        subject looks like at each place means little where subjects stand now here, now there. Which it is, held-out
        images tell.
        """
        return self._both(layer)[0]

    def reader(self, layer: str) -> IdentityReader:
        """Reads forgotten and kept subjects at a layer; of very many kept ones, some."""
        return self._both(layer)[1]

    def _both(self, layer: str) -> tuple[IdentityModel, IdentityReader]:
        # A reader takes a pass over all images, so each is made once.
        if layer not in self._known:
            same = len({value.shape[0] for store in (self.forget, self.keep) for value in store.all(layer)}) == 1
            found = self._estimate(layer, per_token=same)
            if same and len(self.forget_held_out) + len(self.keep_held_out) > 0:
                pooled = self._estimate(layer, per_token=False)
                if self._right(layer, pooled[1]) > self._right(layer, found[1]):
                    found = pooled
            self._known[layer] = found
        return self._known[layer]

    def _estimate(self, layer: str, *, per_token: bool) -> tuple[IdentityModel, IdentityReader]:
        features, subjects = self._images(layer, self.forget_known, self.keep_known)
        model = IdentityModel(features, subjects, centroids(features, subjects, per_token=per_token))
        size = next(iter(model.means.values())).numel()
        most = max(_READER_ELEMENTS // size, _FEWEST_READ)
        kept = self.kept
        return model, IdentityReader(model, [*self.forgotten, *kept[:: max(1, -(-len(kept) // most))]])

    def _right(self, layer: str, reader: IdentityReader) -> int:
        """How many held-out images are read as their subject."""
        return int(own_readings(reader, *self._images(layer, self.forget_held_out, self.keep_held_out)).sum())

    def _images(self, layer: str, forget: Sequence[int], keep: Sequence[int]) -> tuple[list[Tensor], list[str]]:
        """Features and subjects of some forget and kept images."""
        own, others, forgotten = self.forget.all(layer), self.keep.all(layer), set(self.forgotten)
        kept = [index for index in keep if self.keep_subjects[index] not in forgotten]
        return (
            [*(own[index] for index in forget), *(others[index] for index in kept)],
            [*(self.forget_subjects[index] for index in forget), *(self.keep_subjects[index] for index in kept)],
        )

    def from_last(self) -> list[str]:
        """The recipe's layers from the last back: draws are made where the language model reads."""
        return list(reversed(self.recipe.layers))


@dataclass(frozen=True)
class ForgetTargets:
    """What a strategy makes.

    Attributes:
        features: Target features [N, D] of every forget image at each of the recipe's layers.
        stand_ins: Forgotten subject -> the identities its target was made from; empty where there are none. Names:
            never write them out.
        readings: What the targets read as, per layer; of a strategy that makes targets farther until they read as
            somebody else.
    """

    features: FeatureStore
    stand_ins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    readings: dict[str, TargetReading] = field(default_factory=dict)
