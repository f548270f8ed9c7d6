"""Where in an image its subject shows: how much of each token is the subject's own.

Of an emblem in a corner most tokens show a wall, and a shift that is added to all of them moves the wall and hardly the
emblem. Tokens are compared with those of other images: a token that is the subject's finds a better match in the
subject's other images than in those of other subjects, and a token of a wall does not. Matching local descriptors
against the images of a class is that of nearest-neighbour image-to-class distances (Boiman, Shechtman and Irani, CVPR
2008); here the class is known, and the descriptor is what is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.identity_space import Image

# Images that tokens are compared with: as many as this many elements hold, within these numbers.
_ELEMENTS, _FEWEST, _MOST = 1 << 28, 64, 256
# With fewer other subjects there is no telling what is usual.
_FEWEST_OTHERS = 3
_ROUNDS = 200
# Of the largest weight, so that an image without any token of its subject's weighs all alike.
_LEAST = 1e-3


class TokenMatches:
    """Tokens of known images, which the tokens of other images are matched against.

    Args:
        features: One [N, D] per image of the forgotten subjects, then of the kept ones; N may vary.
        subjects: The subject of each image.
        forgotten: How many of the images, from the first, show forgotten subjects: they get half of the room.
        device: Where tokens are compared.
    """

    def __init__(
        self, features: Sequence[Tensor], subjects: Sequence[str], forgotten: int, device: torch.device
    ) -> None:
        room = min(max(_ELEMENTS // max(value.numel() for value in features), _FEWEST), _MOST)
        first = _in_turn(subjects[:forgotten])
        rest = [forgotten + index for index in _in_turn(subjects[forgotten:])]
        share = max(room // 2, room - len(rest))
        self.images = sorted([*first[:share], *rest[: room - min(len(first), share)]])
        self._names = list(dict.fromkeys(subjects[index] for index in self.images))
        self._places = {image: place for place, image in enumerate(self.images)}
        self._tokens = torch.cat([_unit(features[index].to(device)) for index in self.images])
        lengths = torch.tensor([features[index].shape[0] for index in self.images], device=device)
        self._owner = torch.arange(len(self.images), device=device).repeat_interleave(lengths)
        self._shows = torch.zeros(len(self.images), len(self._names), device=device)
        for place, index in enumerate(self.images):
            self._shows[place, self._names.index(subjects[index])] = 1

    def scores(self, feature: Tensor, subject: str, without: int | None = None) -> Tensor | None:
        """How much better each token is matched by its own subject than by others.

        Args:
            feature: [N, D], of an image of the subject.
            subject: The subject of the image.
            without: A known image that does not count, since it is the same one.

        Returns:
            The cosine of the best match in an image of the subject, mean over its images, in standard deviations over
            other subjects from their mean: float32 [N] on the CPU. None where no other image of the subject or too few
            other subjects are known.
        """
        shows = self._shows
        if without in self._places:
            shows = shows.clone()
            shows[self._places[without]] = 0
        counts = shows.sum(dim=0)
        own = self._names.index(subject) if subject in self._names else -1
        others = counts > 0
        if own < 0 or counts[own] == 0 or int(others.sum()) - 1 < _FEWEST_OTHERS:
            return None
        cosines = _unit(feature.to(self._tokens.device)) @ self._tokens.T
        best = cosines.new_full((len(cosines), len(self.images)), -1.0)
        best.scatter_reduce_(1, self._owner.expand(len(cosines), -1), cosines, "amax")
        found = best @ shows / counts.clamp_min(1)
        others[own] = False
        usual = found[:, others]
        return ((found[:, own] - usual.mean(dim=1)) / usual.std(dim=1).clamp_min(1e-6)).cpu()


@dataclass(frozen=True)
class TwoGroups:
    """A token's score is either that of anybody, standard normal, or that of the subject, N(mean, deviation).

    The two-groups model behind local false discovery rates (Efron, Statistical Science 23, 2008), whose parts are
    estimated from the scores themselves, so that nothing has to be set.

    Attributes:
        share: Prior share of tokens that are the subject's.
        mean: Mean score of the subject's tokens, in standard deviations of anybody's.
        deviation: Standard deviation of these scores, in the same unit.
    """

    share: float
    mean: float
    deviation: float

    @classmethod
    def fitted(cls, scores: Tensor) -> TwoGroups:
        """By expectation maximisation, from the scores of one subject's tokens, [n]."""
        values = scores.double()
        model = cls(0.5, max(float(values.mean()), 1.0), max(float(values.std(correction=0)), 1.0))
        for _ in range(_ROUNDS):
            own = model._posterior(values)
            total = float(own.sum())
            if total < 1e-9:
                return model
            mean = max(float((own * values).sum()) / total, 0.5)
            spread = float((own * (values - mean).square()).sum()) / total
            before, model = model, cls(total / len(values), mean, max(math.sqrt(spread), 1.0))
            if abs(before.share - model.share) + abs(before.mean - model.mean) < 1e-6:
                break
        return model

    def effect(self, scores: Tensor) -> Tensor:
        """How much of the subject a token is expected to show, float32 [n], at least 0.

        The posterior mean of what a score is made of besides standard normal noise: the probability that the token is
        the subject's, times the score shrunk to the mean of the subject's scores.
        """
        values = scores.double()
        shown = self.mean + (values - self.mean) * (1 - 1 / self.deviation**2)
        own = torch.where(values > 0, self._posterior(values), 0.0)
        return (own * shown.clamp_min(0)).float()

    def _posterior(self, values: Tensor) -> Tensor:
        prior = math.log(self.share / (1 - self.share)) if 0 < self.share < 1 else math.copysign(50, self.share - 0.5)
        evidence = 0.5 * values.square() - 0.5 * ((values - self.mean) / self.deviation).square()
        return torch.sigmoid(prior - math.log(self.deviation) + evidence)


class TokenWeights:
    """The weight of each token of an image in what is read of its subject; made when first asked for, then kept.

    Args:
        features: One [N, D] per known image, those of forgotten subjects first.
        subjects: The subject of each.
        forgotten: How many show forgotten subjects.
        feature: The teacher's features of any image.
        subject: Who is on any image.
        same: The place among the known images of an image or of the one it is a copy of; None for others.
        device: Where tokens are compared.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        subjects: Sequence[str],
        forgotten: int,
        feature: Callable[[Image], Tensor],
        subject: Callable[[Image], str],
        same: Callable[[Image], int | None],
        device: torch.device,
    ) -> None:
        self._feature, self._subject, self._same = feature, subject, same
        self._matches = TokenMatches(features, subjects, forgotten, device)
        self._groups: dict[str, TwoGroups] = {}
        self._weights: dict[Image, Tensor] = {}
        scores: dict[str, list[Tensor]] = {}
        for place, (value, name) in enumerate(zip(features, subjects, strict=True)):
            found = self._matches.scores(value, name, place)
            if found is not None:
                scores.setdefault(name, []).append(found)
        for name, several in scores.items():
            self._groups[name] = TwoGroups.fitted(torch.cat(several))

    def __call__(self, image: Image) -> Tensor:
        """Float32 [N] with sum 1; all alike where nothing tells the subject's tokens."""
        if image not in self._weights:
            value, name = self._feature(image), self._subject(image)
            scores = self._matches.scores(value, name, self._same(image)) if name in self._groups else None
            shown = torch.zeros(len(value)) if scores is None else self._groups[name].effect(scores)
            shown = shown + max(float(shown.max()), 1.0) * _LEAST
            self._weights[image] = shown / shown.sum()
        return self._weights[image]


def _unit(tokens: Tensor) -> Tensor:
    return torch.nn.functional.normalize(tokens.float(), dim=1)


def _in_turn(subjects: Sequence[str]) -> list[int]:
    """Indices of images, the first of every subject before the second of any."""
    seen: dict[str, int] = {}
    turns = []
    for index, subject in enumerate(subjects):
        seen[subject] = seen.get(subject, 0) + 1
        turns.append((seen[subject], index))
    return [index for _, index in sorted(turns)]
