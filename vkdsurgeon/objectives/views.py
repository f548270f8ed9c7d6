"""What varies between pictures of one subject is view, not identity, and must not move with the subject.

A centroid of a dozen pictures still carries the accident of its views: more open mouths here, more red backgrounds
there. Moving a subject by the difference of two centroids would move those as well, and general vision on its pictures
would answer for somebody else's pose. The leading principal directions of the within-subject deviations t(x) - mu_s of
the kept subjects span the views; they are projected out of the move (the idea of within-class covariance
normalisation, Hatch et al., Interspeech 2006, as a projection).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# The Gram matrix of so many pictures takes milliseconds to decompose; more of them change the directions little.
_MOST_PICTURES = 1024


class ViewDirections:
    """The subspace of views at one layer, held by the pictures that span it.

    Only a Gram matrix between pictures and one token's deviations at a time are formed, so memory stays at
    [pictures, D] however many tokens there are.

    Args:
        features: One [N, D] per kept picture.
        subjects: The subject of each picture.
        means: Subject -> centroid, [N, D], or [1, D] where token positions are averaged.
        share: Share of the power of the deviations that the subspace holds, in [0, 1); 0 is no subspace.
    """

    def __init__(
        self, features: Sequence[Tensor], subjects: Sequence[str], means: Mapping[str, Tensor], share: float
    ) -> None:
        several = {subject for subject in means if subjects.count(subject) > 1}
        chosen = [index for index, subject in enumerate(subjects) if subject in several]
        step = max(1, -(-len(chosen) // _MOST_PICTURES))
        self._pictures = [(features[index], means[subjects[index]]) for index in chosen[::step]] if share else []
        self._weights = self._decompose(share) if self._pictures else torch.empty(0, 0)

    @property
    def count(self) -> int:
        """Number of directions."""
        return self._weights.shape[1]

    def remove(self, move: Tensor) -> Tensor:
        """The part of a move [N, D] (or [1, D]) that is orthogonal to every view direction; float32."""
        if self.count == 0:
            return move
        along = torch.zeros(len(self._pictures))
        for token in range(move.shape[0]):
            along += self._deviations(token) @ move[token]
        mixture = self._weights @ (self._weights.T @ along)
        return torch.stack([move[token] - self._deviations(token).T @ mixture for token in range(move.shape[0])])

    def remove_each(self, moves: Tensor) -> Tensor:
        """`remove` for many moves [B, N, D] (or [B, 1, D]) in one pass over the pictures; float32."""
        if self.count == 0:
            return moves
        along = torch.zeros(len(self._pictures), len(moves))
        for token in range(moves.shape[1]):
            along += self._deviations(token) @ moves[:, token].T
        mixture = self._weights @ (self._weights.T @ along)
        kept = [moves[:, token] - mixture.T @ self._deviations(token) for token in range(moves.shape[1])]
        return torch.stack(kept, dim=1)

    def _deviations(self, token: int) -> Tensor:
        rows = []
        for feature, mean in self._pictures:
            pooled = feature.float().mean(dim=0) if mean.shape[0] == 1 else feature[token].float()
            rows.append(pooled - mean[token])
        return torch.stack(rows)

    def _decompose(self, share: float) -> Tensor:
        """[pictures, r] such that deviations.T @ weights are orthonormal directions that hold the share."""
        gram = torch.zeros(len(self._pictures), len(self._pictures), dtype=torch.float64)
        for token in range(self._pictures[0][1].shape[0]):
            deviations = self._deviations(token).double()
            gram += deviations @ deviations.T
        power, vectors = torch.linalg.eigh(gram)
        power, vectors = power.flip(0).clamp_min(0), vectors.flip(1)
        total = power.sum()
        if total <= 0:
            return torch.empty(len(self._pictures), 0)
        count = int(torch.searchsorted(power.cumsum(0), share * total)) + 1
        return (vectors[:, :count] / power[:count].sqrt()).float()
