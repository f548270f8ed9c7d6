"""A linear classifier (probe) that predicts the subject from features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vkdsurgeon.results.attacks import ProbeKind

_STEPS = 2000


class LinearReader:
    """Multinomial logistic regression or ridge regression on standardised features.

    Features are centred and scaled as in the training part. Where they are wider than there are images, the reader is
    trained in the span of the training features: the solution of every L2-regularised linear model lies there
    (representer theorem), so nothing is lost.

    Args:
        kind: `logistic` or `ridge`.
        regularisation: Strength of the L2 penalty: 1/C of the logistic regression, alpha of the ridge regression.
        balanced: Weigh classes by the inverse of their frequency.
    """

    def __init__(self, kind: ProbeKind, regularisation: float, *, balanced: bool = False) -> None:
        self._kind = kind
        self._strength = regularisation
        self._weights = "balanced" if balanced else None
        self._mean = self._scale = np.zeros(0)
        self._basis: np.ndarray | None = None
        self._model: Any = None
        self.converged = True

    def fit(self, features: np.ndarray, labels: Sequence[str]) -> LinearReader:
        """Train the probe.

        Args:
            features: float [n, D].
            labels: n of them, at least two kinds.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, RidgeClassifier

        self._mean = features.mean(axis=0)
        scale = features.std(axis=0)
        self._scale = np.where(scale > 1e-12 * max(float(scale.max(initial=0.0)), 1e-300), scale, 1.0)
        inputs = (features - self._mean) / self._scale
        if inputs.shape[1] > inputs.shape[0]:
            self._basis = np.linalg.svd(inputs, full_matrices=False)[2].T
            inputs = inputs @ self._basis
        if self._kind == "logistic":
            self._model = LogisticRegression(C=1.0 / self._strength, max_iter=_STEPS, class_weight=self._weights)
        else:
            self._model = RidgeClassifier(alpha=self._strength, class_weight=self._weights)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._model.fit(inputs, list(labels))
        self.converged = not any(issubclass(each.category, ConvergenceWarning) for each in caught)
        return self

    def read(self, features: np.ndarray) -> list[str]:
        """The label of each row of float [n, D]."""
        return [str(label) for label in self._model.predict(self._inputs(features))]

    @property
    def width(self) -> int:
        """The number of features that it reads."""
        return len(self._mean)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Decision values, [n] with two classes (positive means the second in sorted order)."""
        return np.asarray(self._model.decision_function(self._inputs(features)))

    def _inputs(self, features: np.ndarray) -> np.ndarray:
        inputs = (features - self._mean) / self._scale
        return inputs if self._basis is None else inputs @ self._basis
