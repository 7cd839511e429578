"""Laws of a component's features: what the bounds are taken between.

Calibration keeps moments and histograms class by class. Both join by addition, so the law of any
set of classes, and of all classes but one, follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..calibration.moments import Moments

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MomentLaws:
    """L laws of each of C channels, as means and co-moments of F features.

    Attributes
    ----------
    count : int64 (L,)
        Images that each law is known from.
    mean : float64 (L, C, F)
        Means; of no meaning where there are no images.
    comoment : float64 (L, C, F, F)
        Centred sums of products, not divided by the count.
    """

    count: IntArray
    mean: FloatArray
    comoment: FloatArray

    @classmethod
    def of(cls, moments: Moments, features: Sequence[str], part: slice) -> MomentLaws:
        """The law of each class, for a range of channels.

        Raises
        ------
        DataError
            If the moments do not hold one of the features.
        """
        missing = [name for name in features if name not in moments.features]
        if missing:
            raise DataError(
                f"the moments hold no feature {missing[0]!r} but {', '.join(moments.features)}: "
                "calibrate again with it"
            )
        index = np.array([moments.features.index(name) for name in features])
        mean = np.ascontiguousarray(moments.mean[:, part][..., index])
        comoment = np.ascontiguousarray(moments.comoment[:, part][..., index[:, None], index])
        return cls(moments.count, mean, comoment)

    @property
    def covariance(self) -> FloatArray:
        """Covariances (L, C, F, F) of the images as they are: the divisor is n, not n - 1."""
        divisor = np.maximum(self.count, 1).astype(np.float64)
        covariance: FloatArray = self.comoment / divisor[:, None, None, None]
        return covariance

    def take(self, index: Sequence[int]) -> MomentLaws:
        """Some of the laws, in the order asked for."""
        places = list(index)
        return MomentLaws(self.count[places], self.mean[places], self.comoment[places])

    def pool(self, members: Sequence[int]) -> MomentLaws:
        """The one law of all images of some laws."""
        some = self.take(members)
        reference, first, second = some._about_their_mean()
        total = np.atleast_1d(some.count.sum())
        return MomentLaws(
            *_settle(total, reference, first.sum(axis=0)[None], second.sum(axis=0)[None])
        )

    def rest(self) -> MomentLaws:
        """For each law, that of the images of all others.

        All sums are taken about the mean of all images, so that only distances between means are
        squared, and no law is subtracted from the sum of all: a rest that is far tighter than the
        law left out keeps its digits. The cost is a few passes over the arrays.
        """
        reference, first, second = self._about_their_mean()
        others = self.count.sum() - self.count
        return MomentLaws(*_settle(others, reference, _others(first), _others(second)))

    def _about_their_mean(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The mean of all images (C, F), and sums of values and products about it, by law."""
        seen = int(self.count.argmax())
        share = self.count / max(int(self.count.sum()), 1)
        # From a mean that occurs, so that a feature which never changes keeps its value exactly.
        reference = self.mean[seen] + np.tensordot(share, self.mean - self.mean[seen], axes=1)
        shift = self.mean - reference
        count = self.count.astype(np.float64)
        first = shift * count[:, None, None]
        second = self.comoment + first[..., :, None] * shift[..., None, :]
        return reference, first, second


def _settle(
    count: IntArray, reference: FloatArray, first: FloatArray, second: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Count, mean and co-moment from sums about a reference."""
    shift = first / np.maximum(count, 1).astype(np.float64)[:, None, None]
    return count, reference + shift, second - first[..., :, None] * shift[..., None, :]


def _others(values: FloatArray) -> FloatArray:
    """For each entry of axis 0 the sum of all others, by a tree of sums of neighbours."""
    if len(values) == 1:
        return np.zeros_like(values)
    if len(values) % 2:
        return _others(np.concatenate([values, np.zeros_like(values[:1])]))[:-1]
    left, right = values[0::2], values[1::2]
    outside = _others(left + right)
    others = np.empty_like(values)
    np.add(outside, right, out=others[0::2])
    np.add(outside, left, out=others[1::2])
    return others


@dataclass(frozen=True, eq=False)
class BinnedLaws:
    """L laws of each of C channels, as counts in fixed bins of one feature.

    Attributes
    ----------
    edges : float64 (C, B - 1)
        Bin b holds edges[b - 1] < x <= edges[b]; fixed before any image was counted.
    counts : int64 (L, C, B)
        Images in each bin.
    """

    edges: FloatArray
    counts: IntArray

    @classmethod
    def of(cls, moments: Moments, part: slice) -> BinnedLaws:
        """The law of each class, for a range of channels, both folds together.

        Raises
        ------
        DataError
            If the moments hold no histograms.
        """
        found = moments.histograms
        if found is None:
            raise DataError("the moments hold no histograms: calibrate again with histograms")
        counts = found.counts[:, :, part].sum(axis=0, dtype=np.int64)
        return cls(found.wide_edges(part), counts)

    @property
    def count(self) -> IntArray:
        """Images that each law is known from, (L,); every channel counts all of them."""
        total: IntArray = self.counts[:, :1].sum(axis=(1, 2))
        return total

    @property
    def share(self) -> FloatArray:
        """Shares of the images in each bin (L, C, B); 0 where there are no images."""
        divisor = np.maximum(self.count, 1).astype(np.float64)
        share: FloatArray = self.counts / divisor[:, None, None]
        return share

    def take(self, index: Sequence[int]) -> BinnedLaws:
        """Some of the laws, in the order asked for."""
        return BinnedLaws(self.edges, self.counts[list(index)])

    def pool(self, members: Sequence[int]) -> BinnedLaws:
        """The one law of all images of some laws."""
        return BinnedLaws(self.edges, self.counts[list(members)].sum(axis=0)[None])

    def rest(self) -> BinnedLaws:
        """For each law, that of the images of all others; integers can be subtracted."""
        return BinnedLaws(self.edges, self.counts.sum(axis=0) - self.counts)
