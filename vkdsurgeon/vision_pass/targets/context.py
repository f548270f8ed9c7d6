"""What every forget target is made from, and what it is made into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.vision_pass.identity_classifier import IdentityModel
from vkdsurgeon.vision_pass.identity_space import POSITIONS, PRESENCE, IdentitySpace, Image, KnownImages
from vkdsurgeon.vision_pass.presence import TokenWeights
from vkdsurgeon.vision_pass.target_readings import TargetReading


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
        generator: Source of draws.
        reference: Runs the reference model of `forget_teacher` over the forget images; None without one.
        empty: Makes an empty store within the memory that the recipe grants.
        forget_digests: Digest of the file of each forget image; copies of one image share it. None are known where
            this is empty, as below.
        keep_digests: The same of the kept images.
        device: Where tokens are compared.
    """

    recipe: Recipe
    forget: FeatureStore
    keep: FeatureStore
    forget_subjects: tuple[str, ...]
    keep_subjects: tuple[str, ...]
    forget_known: Sequence[int]
    keep_known: Sequence[int]
    generator: torch.Generator
    reference: Callable[[], FeatureStore] | None
    empty: Callable[[], FeatureStore]
    forget_digests: Sequence[str] = ()
    keep_digests: Sequence[str] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _spaces: dict[str, tuple[IdentitySpace, ...]] = field(default_factory=dict)

    @property
    def forgotten(self) -> list[str]:
        """The forgotten subjects, in order of first appearance."""
        return list(dict.fromkeys(self.forget_subjects[index] for index in self.forget_known))

    @property
    def kept(self) -> list[str]:
        """The kept subjects, in order of first appearance; one that is forgotten as well is not among them."""
        forgotten = set(self.forgotten)
        kept = dict.fromkeys(self.keep_subjects[index] for index in self.keep_known)
        return [subject for subject in kept if subject not in forgotten]

    def identities(self, layer: str) -> IdentityModel:
        """Identities at a layer, of the forgotten and of the kept subjects, taken as they are read best."""
        return self.spaces(layer)[0].model

    def spaces(self, layer: str) -> tuple[IdentitySpace, ...]:
        """Ways of taking identities at a layer: positions first, unless the other reads significantly more images.

        Then it is the only one, since what a worse way still makes out is not what tells subjects apart.
        """
        # Each takes a pass over all images, so they are made once.
        if layer not in self._spaces:
            known, feature = self._known(), partial(self._feature, layer)
            weights = self._weights(layer, known)
            local = IdentitySpace(PRESENCE, known, feature, weights)
            counts = {value.shape[0] for store in (self.forget, self.keep) for value in store.all(layer)}
            if len(counts) > 1:
                self._spaces[layer] = (local,)
            else:
                fixed = IdentitySpace(POSITIONS, known, feature)
                self._spaces[layer] = (local,) if local.beats(fixed) else (fixed, local)
        return self._spaces[layer]

    def _known(self) -> KnownImages:
        forgotten = set(self.forgotten)
        kept = [index for index in self.keep_known if self.keep_subjects[index] not in forgotten]
        images = [*(("forget", index) for index in self.forget_known), *(("retain", index) for index in kept)]
        return KnownImages(tuple(images), tuple(map(self._subject, images)), len(self.forget_known))

    def _weights(self, layer: str, known: KnownImages) -> TokenWeights:
        digests = {"forget": self.forget_digests, "retain": self.keep_digests}

        def file(image: Image) -> tuple[str, str | int]:
            role, index = image
            return role, digests[role][index] if digests[role] else index

        places = {file(image): place for place, image in enumerate(known.images)}

        def same(image: Image) -> int | None:
            return places.get(file(image))

        features = [self._feature(layer, image) for image in known.images]
        return TokenWeights(
            features, known.subjects, known.forgotten, partial(self._feature, layer), self._subject, same, self.device
        )

    def _feature(self, layer: str, image: Image) -> Tensor:
        role, index = image
        return (self.forget if role == "forget" else self.keep).one(layer, index)

    def _subject(self, image: Image) -> str:
        role, index = image
        return (self.forget_subjects if role == "forget" else self.keep_subjects)[index]

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
