"""Fisher's linear discriminant: a head in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    Labels = NDArray[np.int64]

SHRINKAGE = 1e-2
"""Of the covariance within classes, towards its mean variance."""


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Linear discriminant analysis with equal priors: scores = x @ matrix + offset.

    Attributes
    ----------
    classes : int64 (L,)
        Class of each score.
    matrix, offset
        Shapes (C, L) and (L,).
    """

    classes: Labels
    matrix: FloatArray
    offset: FloatArray

    def top(self, x: FloatArray) -> Labels:
        """The class of each row of (N, C)."""
        best: Labels = self.classes[(x @ self.matrix + self.offset).argmax(axis=1)]
        return best


def discriminant(x: FloatArray, labels: Labels) -> Discriminant:
    """Fit Fisher's discriminant, (N, C) and (N,): class means and one shared covariance."""
    classes, place = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), x.shape[1]))
    np.add.at(sums, place, x)
    means = sums / np.bincount(place)[:, None]
    centred = x - means[place]
    covariance = centred.T @ centred / max(len(x) - len(classes), 1)
    level = np.trace(covariance) / len(covariance)
    ridge = max(SHRINKAGE * level, np.finfo(float).tiny)
    matrix = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means.T)
    return Discriminant(classes, matrix, -0.5 * (means.T * matrix).sum(axis=0))
