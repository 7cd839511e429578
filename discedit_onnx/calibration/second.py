"""Second moments of a tensor's channels among each other, over all positions of all images.

A consumer's weights are refitted by them. They know no classes: one matrix for each tensor.

They come from a batch in one of two ways. The graph multiplies, and hands out a matrix; or, for
wide tensors on the CPU, it hands out the values: half of a symmetric matrix need not be computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .products import Times

FloatArray = npt.NDArray[np.float64]

BLOCK = 2**15
"""Numbers of a matrix that are added to at a time."""

BAND = 128
"""Rows of a matrix that are multiplied at a time: from their diagonal on."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Values of one tensor's C channels at some positions of some images.

    Attributes
    ----------
    values : float32 (N, C, P)
        Of N images, at P positions of each.
    """

    values: npt.NDArray[np.float32]

    def deviations(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean of each channel (C,), and what is left of it, (C, N P + 1) with one free column.

        Values are centred before they are multiplied, so that float32 keeps its digits where the
        mean is far from 0: at a mean of 10,000 deviations entries are off by 6e-5 of the largest.
        """
        images, channels, places = self.values.shape
        left = np.empty((channels, images * places + 1), np.float32)
        seen = left[:, :-1]
        np.copyto(seen.reshape(channels, images, places), self.values.swapaxes(0, 1))
        mean = seen.mean(axis=1)
        seen -= mean[:, None]
        return mean, left


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

    @classmethod
    def pooled(
        cls,
        means: npt.NDArray[np.floating],
        comoments: npt.NDArray[np.floating],
        counts: npt.NDArray[np.floating],
    ) -> SecondMoments:
        """Those of K pieces together: of their means (K, C), co-moments (K, C, C), counts (K,).

        A piece without a position, all of whose tokens a mask leaves, has no mean.
        """
        whole = counts.astype(np.float64).round()
        count = whole.sum()
        if not whole.all():
            there = whole > 0
            means, comoments, whole = means[there], comoments[there], whole[there]
        mean: FloatArray = (whole @ means.astype(np.float64)) / max(count, 1)
        apart = np.sqrt(whole)[:, None] * (means - mean)
        return cls(int(count), mean, comoments.sum(axis=0, dtype=np.float64) + apart.T @ apart)

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

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is told of later
    def add_positions(self, seen: Positions, times: Times) -> SecondMoments:
        """These and what was seen, as `add`, but above the diagonal only: `mirror` in the end.

        What the distance of the means adds is one more column of the product.
        """
        if not seen.values.size:
            return self
        mean, left = seen.deviations()
        added = left.shape[1] - 1
        count = self.count + added
        delta = mean - self.mean
        left[:, -1] = delta * np.sqrt(self.count * (added / max(count, 1)))
        for start in range(0, len(delta), BAND):
            rows = slice(start, start + BAND)
            self.comoment[rows, start:] += times(left[rows], left[start:])
        self.mean[...] += delta * (added / max(count, 1))
        return SecondMoments(count, self.mean, self.comoment)

    def mirror(self) -> None:
        """Make what is below the diagonal what is above it."""
        for start in range(0, len(self.mean), BAND):
            rows, below = slice(start, start + BAND), slice(start + BAND, None)
            own = self.comoment[rows, rows]
            own[...] = np.triu(own) + np.triu(own, 1).T
            self.comoment[below, rows] = self.comoment[rows, below].T

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
