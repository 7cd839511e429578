"""The arithmetic of the monoid: counts, means and centred co-moments, and how two sets join."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

FloatArray = npt.NDArray[np.float64]

BLOCK = 2**17
"""Values of a feature that are worked on at a time: what is made on the way takes a few MB, and
smaller blocks take longer, for their calls (measured with 1,386 channels)."""


@dataclass(frozen=True, eq=False)
class Sums:
    """The arrays of `Moments`; axes between the count's and the features' are free.

    Attributes
    ----------
    count : int64 (...)
    mean : float64 (..., C, F)
    comoment : float64 (..., C, F, F)
    """

    count: npt.NDArray[np.int64]
    mean: FloatArray
    comoment: FloatArray

    @classmethod
    def zeros(cls, classes: int, channels: int, size: int) -> Sums:
        """The sums of no images; read-only, and one zero in memory, whatever the shape."""
        return cls(
            np.zeros(classes, np.int64),
            np.broadcast_to(0.0, (classes, channels, size)),
            np.broadcast_to(0.0, (classes, channels, size, size)),
        )

    def of(self, which: int | npt.NDArray[np.integer]) -> Sums:
        """The sums of one class, or of some."""
        return Sums(self.count[which], self.mean[which], self.comoment[which])


def combine(a: Sums, b: Sums) -> Sums:
    """Sums of two sets of images together.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979. Only differences of means are squared, so no digits cancel.
    """
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    pairs = a.count * share
    delta = b.mean - a.mean
    spread = delta[..., :, None] * delta[..., None, :]
    spread *= pairs[..., None, None, None]
    spread += a.comoment
    spread += b.comoment
    return Sums(count, a.mean + delta * share[..., None, None], spread)


class GrowingSums:
    """Sums that batches are added to in place.

    Each product of two features has a plane of its own, (K, C): what is read and written for a
    batch is contiguous, and each product is there once.

    Parameters
    ----------
    start
        The sums of the images so far, (K,), (K, C, F) and (K, C, F, F); not changed.
    """

    def __init__(self, start: Sums) -> None:
        self._count = start.count.copy()
        self._mean = np.moveaxis(start.mean, -1, 0).copy()
        self._pairs = list(combinations_with_replacement(range(len(self._mean)), 2))
        self._products = [start.comoment[..., i, j].copy() for i, j in self._pairs]

    @property
    def sums(self) -> Sums:
        """The sums so far, in new arrays."""
        size = len(self._mean)
        comoment = np.empty((*self._mean.shape[1:], size, size))
        for (i, j), plane in zip(self._pairs, self._products, strict=True):
            comoment[..., i, j] = comoment[..., j, i] = plane
        return Sums(self._count.copy(), np.moveaxis(self._mean, 0, -1).copy(), comoment)

    def add(self, features: npt.NDArray[np.floating], classes: npt.NDArray[np.integer]) -> None:
        """Add a batch (N, C, F) of images of these classes (N,).

        Two passes: means, then products of what is left. All is taken relative to the first image
        of its class, so a feature that never changes gets exactly its value as mean, and exactly 0
        as comoment, and no class loses digits by what another one holds. What is there and the
        batch are joined as by `combine`.
        """
        present, index, row, count = np.unique(
            classes, return_index=True, return_inverse=True, return_counts=True
        )
        members = (row == np.arange(len(present))[:, None]).astype(np.float64)
        before = self._count[present]
        share = (count / (before + count))[:, None]
        pairs = before[:, None] * share
        for some in blocks(*features.shape[:2]):
            values = np.moveaxis(features[:, some], -1, 0).astype(np.float64)
            first = values[:, index]
            values -= first[:, row]
            mean = members @ values / count[:, None]
            values -= mean[:, row]
            mean += first
            mean -= self._mean[:, present, some]
            for (i, j), plane in zip(self._pairs, self._products, strict=True):
                spread = members @ (values[i] * values[j]) + mean[i] * mean[j] * pairs
                plane[present, some] += spread
            self._mean[:, present, some] += mean * share
        self._count[present] = before + count


def blocks(images: int, channels: int) -> Iterator[slice]:
    """Ranges of channels, multiples of 64, so that a block of a batch has about `BLOCK` values."""
    width = 64 * max(BLOCK // (64 * max(images, 1)), 1)
    return (slice(start, start + width) for start in range(0, channels, width))
