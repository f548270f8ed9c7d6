"""Whom an image would be taken for, were its subject unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from vkdsurgeon.vision_pass.identity_space import IdentitySpace, Image
from vkdsurgeon.vision_pass.targets import identity_shift


@dataclass(frozen=True)
class NearestKept:
    """The kept identities that are nearest to what is left of an image without its own.

        T(x) = t(x) - S(mu_p - mu) + S(sqrt(k) (mean of the k centroids - mu))

    A model that never saw a subject takes it for those it looks like, which differ from image to image. This project's
    own; measured in docs/studies/study.md.

    Attributes:
        space: How identities are read and moved.
        kept: The kept subjects.
        count: k, how many are mixed.
    """

    space: IdentitySpace
    kept: Sequence[str]
    count: int
    _shifts: dict[tuple[str, ...], Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    def move(self, image: Image, value: Tensor) -> Tensor:
        """Put the nearest kept identities in the place of the image's own.

        Args:
            image: The image.
            value: Its features without its own identity, float32 [N, D].

        Returns:
            Float32 [N, D].
        """
        row = self.space.pooled(image, value).unsqueeze(0)
        scores = dict(zip(self.space.reader.subjects, self.space.reader.scores(row)[0].tolist(), strict=True))
        # Of very many kept subjects the reader knows some.
        known = [name for name in self.kept if name in scores]
        names = tuple(sorted(known, key=lambda name: -scores[name])[: self.count])
        if names not in self._shifts:
            self._shifts[names] = self._shift(names)
        return value + self.space.spread(image, self._shifts[names])

    @cached_property
    def _middle(self) -> Tensor:
        return identity_shift.mean_of(self.space.model, self.kept)

    def _shift(self, names: Sequence[str]) -> Tensor:
        away, views = identity_shift.mixture(self.space.model, self._middle, names)
        return self.space.model.identity(away[None], [views])[0]
