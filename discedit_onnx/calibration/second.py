"""Second moments of a tensor's channels among each other, over all positions of all images.

A consumer's weights are refitted by them. They know no classes: one matrix for each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

FloatArray = npt.NDArray[np.float64]

BLOCK = 2**15
"""Numbers of a matrix that are added to at a time."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Mean and centred co-moment of the C channels of one tensor.

    Attributes
    ----------
    count
        Positions seen, over all images.
    mean : float64 (C,)
        Mean of each channel.
    comoment : float64 (C, C)
        Centred sums of products, sum_i (x_i - mean)(x_i - mean)', not yet divided by the count.
    """

    count: int
    mean: FloatArray
    comoment: FloatArray

    @classmethod
    def empty(cls, channels: int) -> SecondMoments:
        """No positions seen."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    @property
    def uncentred(self) -> FloatArray:
        """Mean of x x' as it is, (C, C)."""
        spread: FloatArray = self.comoment / max(self.count, 1) + np.outer(self.mean, self.mean)
        return spread

    def add(self, other: SecondMoments) -> SecondMoments:
        """Both together, in the arrays of these: they are not to be used again.

        Chan, Golub and LeVeque, 1979, as for the moments by class. Some rows at a time: what is
        added to them never leaves the processor's cache.
        """
        count = self.count + other.count
        share = other.count / max(count, 1)
        delta = other.mean - self.mean
        scaled = delta * (self.count * share)
        step = max(1, BLOCK // max(len(delta), 1))
        added = np.empty((step, len(delta)))
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told of later
            for start in range(0, len(delta), step):
                rows = slice(start, start + step)
                some = np.multiply(scaled[rows, None], delta, out=added[: len(delta) - start])
                some += other.comoment[rows]
                self.comoment[rows] += some
        self.mean[...] += delta * share
        return SecondMoments(count, self.mean, self.comoment)

    def merge(self, other: SecondMoments) -> SecondMoments:
        """Both together, in new arrays."""
        return SecondMoments(self.count, self.mean.copy(), self.comoment.copy()).add(other)


def merged(
    a: Mapping[str, SecondMoments], b: Mapping[str, SecondMoments]
) -> dict[str, SecondMoments]:
    """Tensor by tensor.

    Raises
    ------
    DataError
        If they are of different tensors.
    """
    if a.keys() != b.keys():
        raise DataError(
            "moments with and without second moments can't be merged: calibrate both alike"
        )
    return {name: second.merge(b[name]) for name, second in a.items()}
