"""Certified lower bounds on total variation: they hold for the laws, not only for the sample.

A witness gives an estimate. A certificate is a number that exceeds the total variation distance
with probability `error` at most, whatever the laws and however few the images. Assumed is only that
the images of either side are independent draws from its law, and that the bins were fixed without
them, as calibration does it. Certificates of M comparisons (component, class) at
error = (1 - confidence) / M hold all at once with the confidence asked for, by the union bound;
`certify` does that. All of them read histograms; what is a function of the bin is a function of the
feature, so nothing is approximated by binning. Proofs with more words: docs/certificates.md.

Each function in `CERTIFICATES` takes

    counts_p, counts_q : int (2, ..., B)   images of P and Q by fold and bin
    edges : float64 (..., B - 1)           as in `calibration.histograms`
    error : float                          allowed probability that the bound is too large

and returns float64 (...), in [0, 1]; 0 where nothing can be certified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError, require_finite
from .binned import representatives
from .comparison import Comparison, OneVsRest, single_classes
from .confidence import band_width, difference_bound, gap_and_spreads
from .laws import BinnedLaws

if TYPE_CHECKING:
    from ..calibration.histograms import Histograms
    from ..calibration.moments import Moments

FloatArray = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Certificate = Callable[[Counts, Counts, FloatArray, float], FloatArray]

SMOOTHING = 8
"""When sets are learned, a bin is joined with its neighbours to hold so many images on average."""

BLOCK = 2**20
"""Counts of one side that are worked on at a time."""


def threshold(counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float) -> FloatArray:
    """The best threshold at an edge, with all of them covered at once.

        TV >= max over A of P(A) - Q(A),    A = {x <= t} or {x > t}

    The better of two bands, with half of the error each. One is as wide everywhere: the empirical
    Kolmogorov-Smirnov distance less `confidence.band_width` (Dvoretzky, Kiefer, Wolfowitz and
    Massart). The other shares its half evenly among the 2 (B - 1) sets and bounds P(A) - Q(A) by
    `confidence.difference_bound`; it is narrow where both laws are nearly certain about A, which is
    where a component that tells classes apart lies. As all sets are covered, the data may choose
    the one that is looked at. Proof: there, and the union bound.

    Cost: a few passes over the counts, and 20 us for each comparison.
    """
    (below_p, total_p), (below_q, total_q) = _cumulative(counts_p), _cumulative(counts_q)
    steps = _shares(below_p, total_p) - _shares(below_q, total_q)
    some_p, some_q = (np.maximum(total, 1).astype(np.float64) for total in (total_p, total_q))
    band = np.abs(steps).max(axis=-1) - band_width(some_p, some_q, 0.5 * error)
    band = np.where((total_p > 0) & (total_q > 0), band, 0.0)
    sets = _best_half_line(below_p, total_p, below_q, total_q, 0.5 * error)
    return np.maximum(band, sets)


def interval(counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float) -> FloatArray:
    """The best interval between two edges, or all but one, with all of them covered at once.

        TV >= max over A of P(A) - Q(A),    A = {s < x <= t} or its complement

    On a circle that closes at infinity these sets are the arcs between two of B cuts, and the one
    with the largest difference runs from the lowest to the highest point of F_P - F_Q (Kuiper's
    statistic). Half of the error is shared evenly among the B (B - 1) arcs, half among those
    2 (B - 1) that are half-lines; each is bounded by `confidence.difference_bound`. Proof: there,
    and the union bound.

    Where an affine or a quadratic witness or a kernel exp(-|x|) lies above some level is an arc, so
    this certifies any of them, with whatever weights the data suggest, and sets no image aside to
    learn these. It sees differences of width.

    Cost: a few passes over the counts, and 40 us for each comparison.
    """
    (below_p, total_p), (below_q, total_q) = _cumulative(counts_p), _cumulative(counts_q)
    steps = _shares(below_p, total_p) - _shares(below_q, total_q)
    start, stop = steps.argmin(axis=-1), steps.argmax(axis=-1)
    around = stop < start
    hits_p = _pick(below_p, stop) - _pick(below_p, start) + np.where(around, total_p, 0)
    hits_q = _pick(below_q, stop) - _pick(below_q, start) + np.where(around, total_q, 0)
    bins = steps.shape[-1]
    arc = difference_bound(hits_p, total_p, hits_q, total_q, 0.5 * error / (bins * (bins - 1)))
    return np.maximum(arc, _best_half_line(below_p, total_p, below_q, total_q, 0.5 * error))


def histogram(counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float) -> FloatArray:
    """Any set of bins, learned on one half of the images and certified on the other.

        TV >= P(A) - Q(A),    A = {b : P(b) > Q(b)} on the other half, smoothed

    Sample splitting: given the half that A is learned on, A is fixed for the other, so that
    `confidence.difference_bound` holds however A was chosen. Done both ways with half of the error
    each; the better counts. Sees what one interval does not, where there are some hundred images
    a side; with fewer, `interval` has the larger bounds.

    Cost: a few passes over the counts, and 40 us for each comparison.
    """
    bounds = []
    for learned, tested in ((0, 1), (1, 0)):
        chosen = _learned_set(counts_p[learned], counts_q[learned])
        hits_p, hits_q = (
            np.where(chosen, side[tested], 0).sum(-1) for side in (counts_p, counts_q)
        )
        total_p, total_q = (side[tested].sum(axis=-1) for side in (counts_p, counts_q))
        bounds.append(difference_bound(hits_p, total_p, hits_q, total_q, 0.5 * error))
    return np.maximum(*bounds)


def fisher(counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float) -> FloatArray:
    """Fisher's criterion (`bounds.fisher_bound`) for the worst moments that the images allow.

        TV >= F / (2 + F),    F = d^2 / (v_P + v_Q)

    d and both v are those of the bin's middle, clipped to the outermost edges: a bounded function
    of the feature. They are bounded by `confidence.gap_and_spreads` (Bernstein; Maurer and Pontil)
    in units of that range. Proof: there, T2, and F grows with d and falls with v. It needs hundreds
    of images a side, as it must guard against rare far values; `threshold` need not.

    Cost: a few passes over the counts.
    """
    gap, s_p, s_q = _bounded_moments(counts_p, counts_q, edges, error)
    return gap**2 / (2.0 * (s_p**2 + s_q**2) + gap**2)


def sharp(counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float) -> FloatArray:
    """The sharp bound (`bounds.sharp_bound`) for the worst moments that the images allow.

        TV >= k^2 / (1 + k^2),    k = d / (s_P + s_Q)

    Otherwise as `fisher`, and never below it. Proof: there, and T3.
    """
    gap, s_p, s_q = _bounded_moments(counts_p, counts_q, edges, error)
    return gap**2 / ((s_p + s_q) ** 2 + gap**2)


CERTIFICATES: dict[str, Certificate] = {
    function.__name__: function for function in (threshold, interval, histogram, fisher, sharp)
}
"""Certificates by name."""

CERTIFIED_BY: dict[str, str] = {
    "t1": "fisher",
    "fisher": "fisher",
    "quadratic": "interval",
    "sharp": "sharp",
    "mpm": "interval",
    "mpm-paper": "interval",
    "robust": "sharp",
    "hellinger": "interval",
    "gaussian": "interval",
    "exponential": "interval",
    "threshold": "threshold",
    "histogram": "histogram",
}
"""Which certificate stands in for which witness: it certifies the sets that the witness looks at.

It is about the feature that the histograms count, and a bound for the component all the same: a
function of the feature map can't lie further apart than the map.
"""


def certify(
    name: str,
    moments: Moments,
    comparison: Comparison | None = None,
    confidence: float = 0.95,
) -> FloatArray:
    """Certified bounds of all channels, valid all at once.

    Parameters
    ----------
    name
        In `CERTIFICATES`.
    moments
        Of calibration, with histograms.
    comparison
        Which classes are held against which; each against the rest, if left out.
    confidence
        Probability, at least, that none of the returned bounds exceeds its total variation.

    Returns
    -------
    float64 (C, L)
        Channels by columns of the comparison, in [0, 1].

    Raises
    ------
    UsageError
        If there is no such certificate, or the confidence is not between 0 and 1.
    DataError
        If the moments hold no histograms.
    """
    if name not in CERTIFICATES:
        raise UsageError(f"no certificate named {name!r}; there are {', '.join(CERTIFICATES)}")
    if moments.histograms is None:
        raise DataError("a confidence needs histograms, and the moments hold none: calibrate again")
    comparison = OneVsRest(single_classes(moments)) if comparison is None else comparison
    found = moments.histograms
    channels, bins = found.counts.shape[2:]
    bounds = np.empty((channels, len(comparison)))
    error = error_of_each(confidence, bounds.size)
    width = max(16, BLOCK // (max(len(comparison), found.counts.shape[1]) * bins))
    for start in range(0, channels, width):
        part = slice(start, start + width)
        p, q = _sides(found, comparison, part)
        bounds[part] = CERTIFICATES[name](p, q, found.wide_edges(part), error).T
    return bounds


def error_of_each(confidence: float, comparisons: int) -> float:
    """The error that each of many comparisons may have, so that all hold at the confidence.

    Bonferroni. A union over laws in place of comparisons, which would be fewer where all pairs of
    classes are compared, would need bands of each law by itself; they are wider by more.

    Raises
    ------
    UsageError
        If the confidence is not between 0 and 1.
    """
    require_finite("confidence", confidence)
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"a confidence lies between 0 and 1, not at {confidence:g}; try 0.95")
    return (1.0 - confidence) / max(comparisons, 1)


def _sides(found: Histograms, comparison: Comparison, part: slice) -> tuple[Counts, Counts]:
    """Counts of P and Q, (2, L, C, B), for a range of channels."""
    edges = found.wide_edges(part)
    folds = [
        comparison.laws(BinnedLaws(edges, counts.astype(np.int64)))
        for counts in found.counts[:, :, part]
    ]
    p, q = zip(*folds, strict=True)
    return np.stack([law.counts for law in p]), np.stack([law.counts for law in q])


def _cumulative(counts: Counts) -> tuple[Counts, Counts]:
    """Images up to each bin (..., B), both folds together, and all of them (...)."""
    below = counts.sum(axis=0, dtype=np.int64).cumsum(axis=-1)
    return below, below[..., -1]


def _shares(counts: Counts, total: Counts) -> FloatArray:
    shares: FloatArray = counts / np.maximum(total, 1)[..., None]
    return shares


def _pick(values: Counts, index: npt.NDArray[np.intp]) -> Counts:
    """One entry of the last axis each."""
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _best_half_line(
    below_p: Counts, total_p: Counts, below_q: Counts, total_q: Counts, error: float
) -> FloatArray:
    """Bound P(A) - Q(A) for the half-line that promises most; error / 2 (B - 1) for each."""
    each = 0.5 * error / (below_p.shape[-1] - 1)
    inner_p, inner_q = below_p[..., :-1], below_q[..., :-1]
    # Normal approximation, to choose by; half an image on each side keeps certainty from paying.
    share_p = (inner_p + 0.5) / (total_p + 1.0)[..., None]
    share_q = (inner_q + 0.5) / (total_q + 1.0)[..., None]
    variance = share_p * (1.0 - share_p) / (total_p + 1.0)[..., None]
    variance += share_q * (1.0 - share_q) / (total_q + 1.0)[..., None]
    promise = np.abs(share_p - share_q) - np.sqrt(-2.0 * np.log(each) * variance)
    best = promise.argmax(axis=-1)
    hits_p, hits_q = _pick(inner_p, best), _pick(inner_q, best)
    upper = hits_p * total_q < hits_q * total_p
    hits_p, hits_q = (
        np.where(upper, total_p - hits_p, hits_p),
        np.where(upper, total_q - hits_q, hits_q),
    )
    return difference_bound(hits_p, total_p, hits_q, total_q, each)


def _learned_set(counts_p: Counts, counts_q: Counts) -> npt.NDArray[np.bool_]:
    """Bins (..., B) around which P has the larger share; few images are smoothed more."""
    total_p, total_q = counts_p.sum(axis=-1), counts_q.sum(axis=-1)
    bins = counts_p.shape[-1]
    fewest = np.maximum(np.minimum(total_p, total_q), 1)
    reach = np.minimum(SMOOTHING * bins // (2 * fewest), bins)[..., None]
    place = np.arange(bins)
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, bins)

    def around(counts: Counts, total: Counts) -> FloatArray:
        before = np.zeros((*counts.shape[:-1], bins + 1), np.int64)
        np.cumsum(counts, axis=-1, out=before[..., 1:])
        sums = np.take_along_axis(before, last, axis=-1) - np.take_along_axis(
            before, first, axis=-1
        )
        return _shares(sums, total)

    return around(counts_p, total_p) > around(counts_q, total_q)


def _bounded_moments(
    counts_p: Counts, counts_q: Counts, edges: FloatArray, error: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bounds on |d|, s_P and s_Q of the bin's value, scaled to [0, 1]; no gap if too few images."""
    values = representatives(edges)
    values = values - values[..., :1]
    range_ = values[..., -1:]
    unit = np.divide(values, range_, out=np.zeros_like(values), where=range_ > 0.0)

    def sample(counts: Counts) -> tuple[FloatArray, FloatArray, FloatArray]:
        both = counts.sum(axis=0, dtype=np.int64)
        count = np.maximum(both.sum(axis=-1), 2).astype(np.float64)
        mean = (both * unit).sum(axis=-1) / count
        square: FloatArray = (both * (unit - mean[..., None]) ** 2).sum(axis=-1)
        return mean, square / (count - 1.0), count

    gap, s_p, s_q = gap_and_spreads(*sample(counts_p), *sample(counts_q), error)
    fewest = np.minimum(counts_p.sum(axis=(0, -1)), counts_q.sum(axis=(0, -1)))
    return np.where(fewest >= 2, gap, 0.0), s_p, s_q
