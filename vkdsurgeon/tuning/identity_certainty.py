"""How certainly features are recognised as the right subject, by the teacher's centroids.

It stands in for the language model, which reads the features it was trained on and stays as it is. Other than the
forget loss, it does not depend on what a recipe distils towards, so recipes with different targets compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.identity_classifier import IdentityModel, IdentityReader, centroids

# What the reader is to give the right subject on the original features of the held-out images.
SURE = 0.95
# A centroid is as large as an image's features; more others make the choice harder and the reader no better.
_MOST_OTHERS = 64
_TEMPERATURES = 601


class IdentityCertainty:
    """Nearest centroid as a probability, at one layer.

        p(s | h) = softmax_s( -|h - c_s|^2 / tau )

    s runs over the forgotten subjects and up to 64 kept ones, c_s is the mean of the teacher's features of a subject's
    reference images, the distance is that of `identity_classifier`, in which views weigh little, and tau is the
    largest that still gives the right subject 95 % on average on the teacher's features of the images to measure on
    (or nearly as much as any tau does).

    Args:
        forget: Teacher features [N, D] of the forgotten subjects' reference images.
        forget_subjects: Who is on them.
        keep: Teacher features of kept images.
        keep_subjects: Who is on those.
        measured: Teacher features of the images to measure on.
        measured_subjects: Who is on those; forgotten subjects.
    """

    def __init__(
        self,
        forget: Sequence[Tensor],
        forget_subjects: Sequence[str],
        keep: Sequence[Tensor],
        keep_subjects: Sequence[str],
        measured: Sequence[Tensor],
        measured_subjects: Sequence[str],
    ) -> None:
        self._per_token = len({value.shape[0] for value in (*forget, *keep, *measured)}) == 1
        own = centroids(forget, forget_subjects, per_token=self._per_token)
        others = centroids(keep, keep_subjects, per_token=self._per_token)
        self.model = IdentityModel(keep, list(keep_subjects), others)
        step = max(1, -(-len(others) // _MOST_OTHERS))
        known = own | {name: others[name] for name in list(others)[::step] if name not in own}
        self._reader = IdentityReader(self.model, list(known), known)
        self._labels = self._reader.indices(measured_subjects)
        self._temperature = _temperature(self._scores(measured), self._labels)
        self.identities = len(known)

    def certainty(self, features: Sequence[Tensor]) -> float:
        """The probability of the right subject, mean over the images to measure on.

        Args:
            features: The student's features [N, D] of those images, in their order.
        """
        chances = torch.softmax(self._scores(features) / self._temperature, dim=1)
        return float(chances[torch.arange(len(self._labels)), self._labels].mean())

    def view_drift(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> float | None:
        """How far the student moved along views, which are no identity, as a share of |t|^2, mean over images.

        Views are the directions in which images of one subject vary more than subjects do (`identity_classifier`).
        None where the kept set shows no two images of one subject, so that no view is known.
        """
        if self.model.count == 0:
            return None
        t, h = (torch.stack([self._row(value) for value in features]) for features in (teacher, student))
        along = self.model.views(h - t)
        power = t.square().sum(dim=(1, 2)).clamp_min(1e-12)
        return float((along.square().sum(dim=(1, 2)) / power).mean())

    def _scores(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._reader.scores(value.unsqueeze(0)) for value in features])

    def _row(self, value: Tensor) -> Tensor:
        """[N, D], or [1, D] where images differ in N."""
        return value.float() if self._per_token else value.float().mean(dim=0, keepdim=True)


def _temperature(scores: Tensor, labels: Tensor) -> float:
    """The largest temperature at which the right subject gets `SURE`, or nearly what it gets at best."""
    rows = torch.arange(len(labels))
    scale = float(scores.std(dim=1).mean()) or 1.0
    taus = scale * torch.logspace(-4, 2, _TEMPERATURES)
    chances = torch.stack([torch.softmax(scores / tau, dim=1)[rows, labels].mean() for tau in taus])
    wanted = min(SURE, 0.98 * float(chances.max()))
    return float(taus[chances >= wanted].max())
