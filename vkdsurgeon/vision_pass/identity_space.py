"""Two ways of taking identities from features: at token positions, and where the subject shows.

What a subject looks like at each position says most where subjects stand alike, as faces do that were cut out. Where
they stand now here, now there, it says little; then the tokens that are the subject's are averaged (`presence`), and
the rest of the image is left alone. Which way reads images better that it was not made from decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import IdentityModel, IdentityReader, centroids, most_by_chance

# (role, index): an image of the forget or of the retain set.
Image = tuple[str, int]

POSITIONS, PRESENCE = "token positions", "the subject's tokens"

# A reader holds one float32 vector per subject.
_READER_ELEMENTS = 1 << 28
_FEWEST_READ = 32
# Images are measured together up to this size: 256 MiB in float32.
_ELEMENTS_AT_ONCE = 1 << 26
_FOLDS = 4
# Beyond these, kept images that tell how well identities are read.
_MOST_TRIED = 256


@dataclass(frozen=True)
class KnownImages:
    """Images that identities are estimated from.

    Attributes:
        images: Which; those of the forgotten subjects first.
        subjects: The subject of each.
        forgotten: How many are of forgotten subjects.
    """

    images: tuple[Image, ...]
    subjects: tuple[str, ...]
    forgotten: int

    @property
    def tried(self) -> list[int]:
        """Places of the images that tell how well identities are read: of very many kept ones, some."""
        kept = range(self.forgotten, len(self.images))
        return [*range(self.forgotten), *kept[:: max(1, -(-len(kept) // _MOST_TRIED))]]

    @cached_property
    def folds(self) -> list[int]:
        """The fold of each image; -1 for the only image of its subject."""
        counts: dict[str, int] = {}
        turns = []
        for subject in self.subjects:
            turns.append(counts.get(subject, 0))
            counts[subject] = turns[-1] + 1
        return [
            turn % min(_FOLDS, counts[subject]) if counts[subject] > 1 else -1
            for turn, subject in zip(turns, self.subjects, strict=True)
        ]


@dataclass(frozen=True)
class IdentitySpace:
    """Identities at one layer, taken in one way.

    Attributes:
        name: `POSITIONS` or `PRESENCE`.
        known: What identities are estimated from.
        feature: The teacher's features [N, D] of an image.
        weights: The weight of each token of an image, float32 [N] with sum 1; None keeps the positions.
    """

    name: str
    known: KnownImages
    feature: Callable[[Image], Tensor]
    weights: Callable[[Image], Tensor] | None = None

    def pooled(self, image: Image, feature: Tensor) -> Tensor:
        """What is read of an image: the feature as it is, or float32 [1, D], the weighted mean of its tokens.

        Args:
            image: The image whose weights count.
            feature: [N, D], the teacher's, a student's, or a target.
        """
        if self.weights is None:
            return feature
        return self.weights(image).to(feature.device).unsqueeze(0) @ feature.float()

    def spread(self, image: Image, move: Tensor) -> Tensor:
        """What is added to an image's tokens, float32 [N, D], so that what is read of it moves.

        With weights w each token moves by w / |w|^2 times the move: what is the subject's goes all the way, what is
        not stays, and the weighted mean moves by the move.

        Args:
            image: The image whose weights count.
            move: [N, D] or [1, D].
        """
        if self.weights is None:
            return move
        weights = self.weights(image)
        return (weights / weights.square().sum()).unsqueeze(1) * move

    @cached_property
    def rows(self) -> list[Tensor]:
        """What is read of each known image."""
        return [self.pooled(image, self.feature(image)) for image in self.known.images]

    @cached_property
    def model(self) -> IdentityModel:
        """Identities of all known images."""
        return self.refitted(self.rows)

    @cached_property
    def reader(self) -> IdentityReader:
        """Reads forgotten and kept subjects; of very many kept ones, some."""
        # The fold whose model knows the most of how views vary is the most like that of all images.
        nearest = max(range(_FOLDS), key=lambda fold: (self._accidents[fold] > 0, self._made_from_others[fold].count))
        return self._reader(self.model, self._accidents[nearest])

    def release(self) -> None:
        """Let go of everything that `reader` and `pooled` do without: five centroids of every subject."""
        for name in ("rows", "model", "_made_from_others", "_folded"):
            self.__dict__.pop(name, None)

    def refitted(self, rows: Sequence[Tensor]) -> IdentityModel:
        """Identities of the known images where these are read of them."""
        return self._model(range(len(rows)), rows)

    def own(self, places: Sequence[int], rows: Iterable[Tensor]) -> Tensor:
        """Which known images read as their own subject to a reader that was not made from them, bool [B].

        The only image of a subject is read by one that was.

        Args:
            places: Position of each of the B images among the known images.
            rows: What is read of each image, as `pooled` gives it.
        """
        found = []
        for place, row in zip(places, rows, strict=True):
            reader = self._reader_for(place)
            found.append(reader.read(row.unsqueeze(0)) == reader.indices([self.known.subjects[place]]))
        return torch.cat(found) if found else torch.empty(0, dtype=torch.bool)

    def _reader_for(self, place: int) -> IdentityReader:
        fold = self.known.folds[place]
        return self.reader if fold < 0 else self._folded[fold]

    @cached_property
    def recognised(self) -> int:
        """How many known forget images the teacher's features read as their own subject."""
        return int(self.read[: self.known.forgotten].sum())

    @cached_property
    def chance(self) -> float:
        """Probability that an image reads as one given forgotten subject although it shows somebody else.

        Measured on kept images whose own subject is left out of the answers. At least that of a guess among all
        subjects.
        """
        forgotten = len(dict.fromkeys(self.known.subjects[: self.known.forgotten]))
        kept = self._scores[self.known.forgotten :].clone()
        whose = self._whose[self.known.forgotten :]
        read = (whose >= 0).nonzero().flatten()
        kept[read, whose[read]] = -torch.inf
        taken = int((kept.argmax(dim=1) < forgotten).sum()) if len(kept) else 0
        return max(taken / max(len(kept) * forgotten, 1), self.reader.chance)

    @cached_property
    def read(self) -> Tensor:
        """Which of the known images that are tried read as their own subject, bool."""
        return self._scores.argmax(dim=1) == self._whose

    def beats(self, other: IdentitySpace) -> bool:
        """Whether this way reads significantly more images than another (sign test, 5 % one-sided)."""
        gained, lost = int((self.read & ~other.read).sum()), int((other.read & ~self.read).sum())
        return gained > most_by_chance(gained + lost, 0.5)

    @cached_property
    def _scores(self) -> Tensor:
        """Of the images that are tried, by readers that were not made from them; float32 [images, subjects]."""
        return torch.cat(
            [self._reader_for(place).scores(self.rows[place].unsqueeze(0)).cpu() for place in self.known.tried]
        )

    @cached_property
    def _whose(self) -> Tensor:
        """Places of the subjects of these images among those that are read, int64 [images]; -1 for others."""
        return self.reader.indices([self.known.subjects[place] for place in self.known.tried])

    @cached_property
    def _folded(self) -> list[IdentityReader]:
        """For each fold a reader that was made from the others."""
        return [self._reader(*each) for each in zip(self._made_from_others, self._accidents, strict=True)]

    @cached_property
    def _made_from_others(self) -> list[IdentityModel]:
        others = [[place for place, mine in enumerate(self.known.folds) if mine != fold] for fold in range(_FOLDS)]
        return [self._model(places, self.rows) for places in others]

    @cached_property
    def _accidents(self) -> list[float]:
        """How far the images of each fold lie from their identity, to the model that was not made from them."""
        found = []
        for fold, model in enumerate(self._made_from_others):
            mine = [place for place in self.known.tried if self.known.folds[place] == fold]
            at_once = max(_ELEMENTS_AT_ONCE // self.rows[0].numel(), 1)
            parts = [mine[start : start + at_once] for start in range(0, len(mine), at_once)]
            seen = [
                model.accidents([self.rows[place] for place in part], [self.known.subjects[place] for place in part])
                for part in parts
            ]
            found.append(float(torch.cat(seen).mean()) if seen else 0.0)
        return found

    def _model(self, places: Sequence[int], rows: Sequence[Tensor]) -> IdentityModel:
        chosen, subjects = [rows[place] for place in places], [self.known.subjects[place] for place in places]
        return IdentityModel(chosen, subjects, centroids(chosen, subjects, per_token=True))

    def _reader(self, model: IdentityModel, accident: float) -> IdentityReader:
        forgotten = dict.fromkeys(self.known.subjects[: self.known.forgotten])
        kept = [subject for subject in dict.fromkeys(self.known.subjects) if subject not in forgotten]
        most = max(_READER_ELEMENTS // (_FOLDS + 1) // next(iter(model.means.values())).numel(), _FEWEST_READ)
        return IdentityReader(model, [*forgotten, *kept[:: max(1, -(-len(kept) // most))]], accident=accident)
