"""What in features is identity, and what is the accident of a view: one linear model of both, per layer.

A centroid of n views is identity plus the mean of n accidents: more open mouths here, more red backgrounds there.
Moving a subject by the difference of two centroids would move those as well, and general vision on its images would
answer for somebody else's pose. Leaving out every direction in which views vary goes too far the other way: where the
tower confuses views, identities vary in the same directions, and a target without them is still the person.

Both are settled by the best linear estimate of the identity part (best linear unbiased prediction, Henderson,
Biometrics 31, 1975; the shrinkage of probabilistic linear discriminant analysis, Ioffe, ECCV 2006). The principal
directions u of the deviations t(x) - mu_s of images from their subject's mean have a variance w within subjects and,
between subjects,

    b = var over s of <mu_s, u>  -  w mean over s of 1 / n_s,  at least 0

and the identity part of a centered mean of n views is its component along u times b / (b + w / n). What lies outside
these directions is kept whole: views do not vary there, so all of it is identity.

The same directions read identities. With tau the median of w, an image belongs to the subject whose centroid is nearest
in

    |x - mu_s|^2  =  sum over u of <x - mu_s, u>^2 / (w + tau)  +  |rest|^2 / tau

which is linear discriminant analysis with a ridge: a plain distance would be ruled by the largest variations of view.
A centroid of few images has an accident left in it that makes it longer than identities are, and images far from it,
those of its own subject too: whoever is known from most images would be read everywhere. So each mu_s is shrunk to the
mean of all centroids, by B / (B + a / n_s), with a the mean squared distance above of an image from its identity and B
that of identities from their mean (James and Stein, Berkeley Symposium 4, 1961; a and B by moments).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.stats import beta, binom
from torch import Tensor

# The Gram matrix of so many images takes milliseconds to decompose; more of them change the directions little.
_MOST_IMAGES = 1024
# Eigenvalues below this share of the largest are rounding.
_LEAST_POWER = 1e-8
# How often a guesser may be called a knower.
_SIGNIFICANCE = 0.05


class IdentityModel:
    """Within-subject and between-subject variation at one layer.

    Only a Gram matrix between images and one token's deviations at a time are formed, so memory stays at
    [images, D] and a centroid per subject, however many tokens there are.

    Args:
        features: One [N, D] per image of known subjects.
        subjects: The subject of each image.
        means: Subject -> centroid, [N, D], or [1, D] where token positions are averaged.

    Attributes:
        means: As given.
        counts: Images per subject.
        within: w along each direction, float32 [r].
        between: b along each direction, float32 [r].
    """

    def __init__(self, features: Sequence[Tensor], subjects: Sequence[str], means: Mapping[str, Tensor]) -> None:
        self.means = dict(means)
        self.counts = dict.fromkeys(means, 0)
        for subject in subjects:
            self.counts[subject] += 1
        several = [index for index, subject in enumerate(subjects) if self.counts[subject] > 1]
        chosen = several[:: max(1, -(-len(several) // _MOST_IMAGES))]
        self._images = [(features[index], means[subjects[index]]) for index in chosen]
        self._directions = torch.empty(len(chosen), 0)
        self.within = self.between = torch.empty(0)
        if chosen:
            self._decompose(sum(1 - 1 / self.counts[subjects[index]] for index in chosen))

    @property
    def count(self) -> int:
        """Number r of directions in which views vary; 0 where no subject has two images, and nothing is shrunk."""
        return self._directions.shape[1]

    def identity(self, deviations: Tensor, views: Sequence[float]) -> Tensor:
        """The identity part of means of views.

        Args:
            deviations: Means minus the mean of all subjects, [B, N, D] or [B, 1, D].
            views: n of each, the number of images it is a mean of; for a mixture of means, what makes w / n its
                accident.

        Returns:
            Float32, the same shape.
        """
        accident = self.within / torch.tensor(list(views)).unsqueeze(1)
        return self._damped(deviations, accident / (self.between + accident).clamp_min(1e-30))

    def views(self, deviations: Tensor) -> Tensor:
        """The part of deviations along directions in which views vary more than identities, b < w.

        Args:
            deviations: [B, N, D] or [B, 1, D].

        Returns:
            Float32, the same shape.
        """
        mostly = (self.between < self.within).float().expand(len(deviations), -1)
        return deviations.float() - self._damped(deviations, mostly)

    def whitened(self, values: Tensor) -> Tensor:
        """Values times the inverse of the covariance within subjects, ridge included.

        Args:
            values: [B, N, D] or [B, 1, D].

        Returns:
            Float32, the same shape; its inner product with a difference is that of the distance above.
        """
        ridge = self.ridge
        return self._damped(values, (self.within / (self.within + ridge)).expand(len(values), -1)) / ridge

    def accidents(self, values: Sequence[Tensor], subjects: Sequence[str]) -> Tensor:
        """What images that the model was not made from say of a, which models of much the same images share.

        Their squared distances from their subjects' means, times tau, without the share that is the means' accident.

        Args:
            values: B of [N, D] or [1, D], as the means are.
            subjects: Whose images they are.

        Returns:
            Float32 [B].
        """
        gaps = torch.stack([v.float() - self.means[name] for v, name in zip(values, subjects, strict=True)])
        shares = torch.tensor([1 + 1 / self.counts[name] for name in subjects])
        return self.ridge * (self.whitened(gaps) * gaps).sum(dim=(1, 2)) / shares

    @property
    def ridge(self) -> float:
        """tau: the median of w, since a few directions of view outweigh all others in towers of massive activations."""
        return max(float(self.within.median()), 1e-30) if self.count else 1.0

    def _damped(self, values: Tensor, shares: Tensor) -> Tensor:
        """Values [B, N, D] without a share [B, r] of their component along each direction; float32."""
        values = values.float()
        if self.count == 0:
            return values
        along = torch.zeros(len(values), len(self._images))
        for token in range(values.shape[1]):
            along += values[:, token] @ self._deviations(token).T
        mixture = (shares * (along @ self._directions)) @ self._directions.T
        kept = [values[:, token] - mixture @ self._deviations(token) for token in range(values.shape[1])]
        return torch.stack(kept, dim=1)

    def _deviations(self, token: int) -> Tensor:
        rows = []
        for feature, mean in self._images:
            pooled = feature.float().mean(dim=0) if mean.shape[0] == 1 else feature[token].float()
            rows.append(pooled - mean[token])
        return torch.stack(rows)

    def _decompose(self, freedom: float) -> None:
        """Find [images, r] such that deviations.T @ directions are orthonormal, and both variances along them."""
        stacked = torch.stack(list(self.means.values()))
        centered = stacked - stacked.mean(dim=0)
        gram = torch.zeros(len(self._images), len(self._images), dtype=torch.float64)
        cross = torch.zeros(len(stacked), len(self._images), dtype=torch.float64)
        for token in range(stacked.shape[1]):
            deviations = self._deviations(token).double()
            gram += deviations @ deviations.T
            cross += centered[:, token].double() @ deviations.T
        power, vectors = torch.linalg.eigh(gram)
        kept = power > max(float(power[-1]) * _LEAST_POWER, 1e-30)
        power, vectors = power[kept], vectors[:, kept]
        directions = vectors / power.sqrt()
        within = power / freedom
        seen = (cross @ directions).square().sum(dim=0) / max(len(stacked) - 1, 1)
        accident = within * sum(1 / self.counts[subject] for subject in self.means) / len(stacked)
        self._directions = directions.float()
        self.within, self.between = within.float(), (seen - accident).clamp_min(0).float()


class IdentityReader:
    """Reads off features whose they are: the subject with the nearest centroid.

    Args:
        model: The teacher's features.
        subjects: The subjects that are read.
        means: Subject -> centroid, where they are not all of the model's.
        accident: a above times tau, from `IdentityModel.accidents`; 0 shrinks nothing.
    """

    def __init__(
        self,
        model: IdentityModel,
        subjects: Sequence[str],
        means: Mapping[str, Tensor] | None = None,
        accident: float = 0.0,
    ) -> None:
        self.subjects = tuple(subjects)
        self._index = {subject: index for index, subject in enumerate(subjects)}
        chosen = torch.stack([(means or model.means)[subject] for subject in subjects]).float()
        weights = model.whitened(chosen)
        if accident:
            counts = torch.tensor([float(model.counts[subject]) for subject in subjects])
            keep = _shrinkage(chosen, weights, accident / model.ridge / counts).view(-1, 1, 1)
            middle, weighed = chosen.mean(dim=0), weights.mean(dim=0)
            chosen, weights = middle + keep * (chosen - middle), weighed + keep * (weights - weighed)
        self._pooled = chosen.shape[1] == 1
        # What is common to all subjects drops out of every comparison, so what is left is linear in the features.
        self._bias = -0.5 * (weights * chosen).sum(dim=(1, 2))
        self._weights = weights.flatten(1)

    def to(self, device: torch.device) -> IdentityReader:
        """Read where features are from now on; returns itself."""
        self._bias, self._weights = self._bias.to(device), self._weights.to(device)
        return self

    @property
    def chance(self) -> float:
        """How often a guess would be right."""
        return 1 / len(self.subjects)

    def indices(self, subjects: Sequence[str]) -> Tensor:
        """Places in `subjects`, int64 [B]; -1 for a subject that is not read."""
        return torch.tensor([self._index.get(subject, -1) for subject in subjects], dtype=torch.int64)

    def read(self, features: Tensor) -> Tensor:
        """Places in `subjects`, int64 [B], on the CPU.

        Args:
            features: [B, N, D].
        """
        return self.scores(features).argmax(dim=1).cpu()

    def scores(self, features: Tensor) -> Tensor:
        """Minus half the squared distance to each subject, up to what all subjects share; float32 [B, subjects].

        Args:
            features: [B, N, D].
        """
        values = features.to(self._weights.device).float()
        values = values.mean(dim=1) if self._pooled else values.flatten(1)
        return values @ self._weights.T + self._bias


def _shrinkage(means: Tensor, weights: Tensor, accidents: Tensor) -> Tensor:
    """B / (B + a / n) of each centroid [S, N, D], given its weights (`whitened`) and a / n; float32 [S]."""
    squares = ((means - means.mean(dim=0)) * (weights - weights.mean(dim=0))).sum(dim=(1, 2))
    # Never to nothing: then all subjects would be equally near, and the first be read everywhere.
    between = (squares.sum() / max(len(means) - 1, 1) - accidents.mean()).clamp_min(1e-3 * accidents.mean())
    return between / (between + accidents)


def most_by_chance(images: int, chance: float) -> int:
    """The most right readings that guessing explains: more than these are significantly above chance, at 5 %.

    The smallest k with P(X <= k) at least 0.95 for X ~ Binomial(images, chance); 0 without images.
    """
    return int(binom.ppf(1 - _SIGNIFICANCE, images, chance)) if images else 0


def most_that_may_be(found: int, images: int) -> float:
    """Upper bound, at 95 %, of the share that `found` of so many images are a sample of (Clopper, Pearson, 1934)."""
    return 1.0 if found >= images else float(beta.ppf(1 - _SIGNIFICANCE, found + 1, images - found))


def centroids(features: Sequence[Tensor], subjects: Sequence[str], *, per_token: bool) -> dict[str, Tensor]:
    """Mean features of each subject.

    Args:
        features: One [N, D] per image.
        subjects: The subject of each image.
        per_token: Keep the token positions ([N, D], needs one N for all), else average over them ([1, D]).

    Returns:
        Subject -> float32 [N, D] or [1, D], in order of first appearance.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for feature, subject in zip(features, subjects, strict=True):
        value = feature.float() if per_token else feature.float().mean(dim=0, keepdim=True)
        sums[subject] = sums[subject] + value if subject in sums else value.clone()
        counts[subject] = counts.get(subject, 0) + 1
    return {subject: total / counts[subject] for subject, total in sums.items()}
