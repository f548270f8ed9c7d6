"""What every forget target is made from, and what it is made into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.features import FeatureStore
from vkdsurgeon.objectives.distances import FeatureLoss
from vkdsurgeon.objectives.targets import centroids
from vkdsurgeon.recipe import Recipe


@dataclass(frozen=True)
class TargetContext:
    """What a strategy may look at.

    Attributes:
        recipe: The settings.
        forget: The teacher's features t(x) of the forget pictures at each of the recipe's layers.
        keep: The retention teacher's features of the retain and generic pictures.
        forget_subjects: The subject of each forget picture.
        keep_subjects: The subject of each kept picture.
        originals: How many of the forget and of the kept pictures are no altered copies; these stand first.
        generator: Source of draws.
        altered: Runs the teacher over the forget pictures after they went through a function of picture and file.
        reference: Runs the reference model of `--forget-teacher` over the forget pictures; None without one.
        empty: Makes an empty store within the memory that the recipe grants.
    """

    recipe: Recipe
    forget: FeatureStore
    keep: FeatureStore
    forget_subjects: tuple[str, ...]
    keep_subjects: tuple[str, ...]
    originals: tuple[int, int]
    generator: torch.Generator
    altered: Callable[[Callable[[Image.Image, Picture], Image.Image]], FeatureStore]
    reference: Callable[[], FeatureStore] | None
    empty: Callable[[], FeatureStore]

    def identities(self, layer: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Centroids at a layer of the forgotten and of the kept subjects, [N, D], or [1, D] where N varies."""
        own, (others, subjects) = self.forget.all(layer)[: self.originals[0]], self.kept(layer)
        per_token = len({value.shape[0] for value in (*own, *others)}) == 1
        return (
            centroids(own, self.forget_subjects[: self.originals[0]], per_token=per_token),
            centroids(others, subjects, per_token=per_token),
        )

    def kept(self, layer: str) -> tuple[list[Tensor], tuple[str, ...]]:
        """Features at a layer and subjects of the kept pictures.

        Without copies: what alteration does to a picture is no view of a subject, and identities are not made of it.
        """
        return self.keep.all(layer)[: self.originals[1]], self.keep_subjects[: self.originals[1]]

    def from_last(self) -> list[str]:
        """The recipe's layers from the last back: draws are made where the language model reads."""
        return list(reversed(self.recipe.layers))


@dataclass(frozen=True)
class ForgetTargets:
    """What a strategy makes.

    Attributes:
        features: Target features [N, D] of every forget picture at each of the recipe's layers.
        stand_ins: Forgotten subject -> the identities its target was made from; empty where there are none. Names:
            never write them out.
        loss: What to minimise instead of the recipe's distance to `features`; None for that.
    """

    features: FeatureStore
    stand_ins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    loss: FeatureLoss | None = None
