"""Histograms of one feature by class and channel, over bins that are fixed before counting.

Counts of fixed bins are a monoid of integers, exact in any order, and their laws are known without
any assumption: what is certified about a class is certified on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from .sums import blocks

BINS = 64
"""Bins of each channel, the two that are open at one end included."""

MOST_EDGES = np.iinfo(np.uint8).max
"""Of each channel: `bin_of` numbers bins in eight bits."""

FOLDS = 2
"""A witness can be learned on one fold of the images and certified on the other."""

Edges = npt.NDArray[np.float32]
Counts = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Histograms:
    """How many images of each class have their feature in each bin.

    Attributes
    ----------
    feature
        Name of the feature that is counted.
    edges : float32 (C, B - 1)
        Ascending for each channel; bin b holds edges[b - 1] < x <= edges[b]. They are fixed
        before an image is counted. Channels lie next to each other in memory, for values are
        compared with one edge of each at a time.
    counts : uint8, uint16 or uint32 (2, K, C, B)
        Images by fold, class, channel and bin. The fold of an image is `fold_of` its position in
        the data set. The type is the narrowest that holds the most images of any one
        class and fold, which no count can pass: these are the largest arrays by far.
    """

    feature: str
    edges: Edges
    counts: Counts

    @classmethod
    def empty(cls, feature: str, edges: npt.NDArray[np.floating], classes: int) -> Histograms:
        """No images counted."""
        shape = (FOLDS, classes, len(edges), edges.shape[1] + 1)
        return cls(feature, np.asfortranarray(edges, np.float32), np.zeros(shape, np.uint8))

    @property
    def totals(self) -> npt.NDArray[np.int64]:
        """Images by fold and class (2, K); every channel counts all of them."""
        total: npt.NDArray[np.int64] = self.counts[:, :, :1].sum(axis=(2, 3), dtype=np.int64)
        return total

    @property
    def images(self) -> int:
        """How many were counted."""
        return int(self.totals.sum())

    def wide_edges(self, channels: slice) -> npt.NDArray[np.float64]:
        """Edges of some channels, in the precision and the order that bounds are computed in."""
        return self.edges[channels].astype(np.float64, order="C")

    def merge(self, other: Histograms) -> Histograms:
        """The counts of both sets of images together.

        Raises
        ------
        DataError
            If the two count another feature or between other edges.
        """
        if self.feature != other.feature or not np.array_equal(self.edges, other.edges):
            raise DataError(
                "histograms with different edges can't be merged: calibrate the second with "
                "`--edges` and the first moments file"
            )
        kind = _kind_for(self.totals + other.totals)
        return replace(self, counts=np.add(self.counts, other.counts, dtype=kind))

    def add(
        self,
        values: npt.NDArray[np.float32],
        classes: npt.NDArray[np.integer],
        index: npt.NDArray[np.integer],
    ) -> Histograms:
        """With a batch of images counted, in the same array if they fit: use what is returned.

        Parameters
        ----------
        values : (N, C)
            The feature.
        classes : (N,)
            Position of each image's class, from 0 to K - 1.
        index : (N,)
            Position of each image in the data set.
        """
        _, number, channels, bins = self.counts.shape
        entry = fold_of(index) * number + classes
        totals = self.totals.reshape(-1) + np.bincount(entry, minlength=FOLDS * number)
        counts: Counts = self.counts.astype(_kind_for(totals), copy=False)
        row = entry[:, None] * channels
        flat, one = counts.reshape(-1), counts.dtype.type(1)
        for some in blocks(len(values), channels):
            found = bin_of(values[:, some], self.edges[some])
            place = (row + np.arange(channels)[some]) * bins + found
            np.add.at(flat, place.reshape(-1), one)
        return self if counts is self.counts else replace(self, counts=counts)


def fold_of(index: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The fold of images by their position in the data set, (N,).

    Multiples of the golden ratio, cut off behind the point, fall into both halves of [0, 1) alike,
    of whatever step the multiples are: where each fourth image is of one class, too.
    """
    place = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (place >> np.uint64(63)).astype(np.int64)


def _kind_for(totals: npt.NDArray[np.int64]) -> np.dtype[np.unsignedinteger[Any]]:
    """The narrowest type for counts of so many images of each fold and class."""
    return np.min_scalar_type(int(totals.max(initial=0)))


def bin_of(values: npt.NDArray[np.float32], edges: Edges) -> npt.NDArray[np.uint8]:
    """The bin of each value (N, C) between edges (C, B - 1).

    One comparison with each edge for all values at once: the processor does many of them in one
    step, where a binary search would gather them one by one.
    """
    found, above = np.zeros(values.shape, np.uint8), np.empty(values.shape, np.bool_)
    for edge in edges.T:
        np.greater(values, edge, out=above)
        found += above.view(np.uint8)  # as they are: no copy of another type
    return found


def check_edges(edges: npt.NDArray[np.floating]) -> None:
    """Refuse edges that no bins lie between, before an image is counted.

    Raises
    ------
    UsageError
        If they are not of shape (C, B - 1), finite float32 numbers, and ascending.
    """
    if edges.ndim != 2 or not 1 <= edges.shape[1] <= MOST_EDGES:
        raise UsageError(
            f"--edges: of shape {edges.shape}, but a channel has 1 to {MOST_EDGES} edges: give a "
            "row of them for each"
        )
    with np.errstate(over="ignore"):
        counted = edges.astype(np.float32)
    if not np.isfinite(counted).all() or (np.diff(counted, axis=1) < 0).any():
        raise UsageError(
            "--edges: they are not finite, or do not ascend: give each channel's sorted"
        )


def quantile_edges(values: npt.NDArray[np.floating], bins: int = BINS) -> Edges:
    """Edges (C, bins - 1) at evenly spaced quantiles of a first few images' values (N, C)."""
    shares = np.arange(1, bins) / bins
    edges = np.empty((bins - 1, values.shape[1]), np.float32)
    for some in blocks(*values.shape):
        edges[:, some] = np.quantile(values[:, some].astype(np.float64), shares, axis=0)
    return edges.T


def pilot_of(total: int, most: int = 64) -> npt.NDArray[np.int64]:
    """Positions of the images from which edges are made, spread over the data set.

    They depend on its size alone, so shards of it get the same ones. They are not counted, so
    that what is counted is independent of the bins; an eighth of the images at most.
    """
    number = max(1, min(most, total // 8))
    return np.unique(np.linspace(0, total - 1, number).astype(np.int64))


def merged(a: Histograms | None, b: Histograms | None) -> Histograms | None:
    """Both together, or None where neither moments have any.

    Raises
    ------
    DataError
        If only one has histograms, or their edges differ.
    """
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise DataError("moments with and without histograms can't be merged: calibrate both alike")
    return a.merge(b)
