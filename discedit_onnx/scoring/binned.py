"""Lower bounds on total variation from shares in fixed bins: thresholds, histograms, kernels.

A partition that is fixed independently of the data makes every one of these a bound for all laws:
what is a function of the bin is a function of the feature. Arguments are

    share_p, share_q : float64 (..., B)   probabilities of the bins, in the order of their edges

and results float64 (...), in [0, 1]. With shares of a sample, as calibration has them, the result
is an *estimate* of the bound, and too high in general: at TV = 0 always. Cost: a few passes over
the shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .bounds import FloatArray


def threshold_bound(share_p: FloatArray, share_q: FloatArray) -> FloatArray:
    """T4, the best threshold at an edge: the Kolmogorov-Smirnov distance over the edges.

        TV >= max_t |P(x <= t) - Q(x <= t)|

    Proof: TV is the largest |P(A) - Q(A)| over all sets. With an edge between any two values that
    occur it is never below `bounds.sharp_bound` (docs/bounds.md, T4). A bound for all laws. Cost: a
    running sum over the bins.
    """
    steps: FloatArray = np.abs(np.cumsum(share_p - share_q, axis=-1)).max(axis=-1)
    return np.minimum(steps, 1.0)


def histogram_bound(share_p: FloatArray, share_q: FloatArray) -> FloatArray:
    """T5, the best set of bins.

        TV >= 1/2 sum_b |P(b) - Q(b)|

    Proof: the right side is P(A) - Q(A) for A the union of the bins with P(b) > Q(b). It sees
    differences of width, and two-sided ones, that no affine witness sees. Never below
    `threshold_bound` over the same edges. A bound for all laws. Cost: a sum over the bins.
    """
    apart: FloatArray = 0.5 * np.abs(share_p - share_q).sum(axis=-1)
    return np.minimum(apart, 1.0)


def kernel_bound(exponent: FloatArray, share_p: FloatArray, share_q: FloatArray) -> FloatArray:
    """A bounded witness f = exp(exponent) of the bin: the better of two bounds.

        TV >= k^2 / (1 + k^2),    k = |E_P f - E_Q f| / (s_P f + s_Q f)      (T3 of f)
        TV >= |E_P f - E_Q f| / (max f - min f)                              (T4 of f)

    The published code puts exp(-||A||) into T1, uncentred, which squares a witness that needs no
    squaring, and underflows: exp(-2 ||A||) is 0 in float32 from ||A|| = 52, and T1 then 0 / 0.
    Both forms here are invariant under scaling of f, so the largest exponent of a bin that occurs
    is taken out before any exponential.

    Parameters
    ----------
    exponent : (..., B)
        log f in each bin.
    share_p, share_q : (..., B)
        Probabilities of the bins.
    """
    occurs = (share_p > 0.0) | (share_q > 0.0)
    largest = np.max(np.where(occurs, exponent, -np.inf), axis=-1, keepdims=True)
    # f - 1, where 1 is its largest value: variances of what is nearly constant keep their digits.
    depth = np.where(occurs, np.expm1(np.minimum(exponent - largest, 0.0)), 0.0)
    mean_p, mean_q = (share_p * depth).sum(axis=-1), (share_q * depth).sum(axis=-1)
    gap = np.abs(mean_p - mean_q)
    s_p = np.sqrt((share_p * (depth - mean_p[..., None]) ** 2).sum(axis=-1))
    s_q = np.sqrt((share_q * (depth - mean_q[..., None]) ** 2).sum(axis=-1))
    spread = (s_p + s_q) ** 2
    widest = -depth.min(axis=-1)
    zero = np.zeros_like(gap)
    differs = widest > 0.0
    sharp = np.divide(gap**2, spread + gap**2, out=zero.copy(), where=differs)
    direct = np.divide(gap, widest, out=zero, where=differs)
    best: FloatArray = np.minimum(np.maximum(sharp, direct), 1.0)
    return best


def representatives(edges: FloatArray) -> FloatArray:
    """One value for each bin (..., B): the middle, or the edge of the two that are open."""
    middle = 0.5 * (edges[..., :-1] + edges[..., 1:])
    return np.concatenate([edges[..., :1], middle, edges[..., -1:]], axis=-1)


def norm_scale(edges: FloatArray) -> FloatArray:
    """The median norm (..., 1) of a feature where it is not 0, read off its edges.

    The edges are quantiles of images that are not counted, so the scale, like the bins, does not
    depend on what is measured. 1 for a feature that is 0 throughout.
    """
    size = np.abs(edges)
    ordered = np.sort(np.where(size > 0.0, size, np.inf), axis=-1)
    number = (size > 0.0).sum(axis=-1, keepdims=True)
    middle = np.take_along_axis(ordered, np.maximum(number - 1, 0) // 2, axis=-1)
    return np.where(number > 0, middle, 1.0)


def gaussian_exponent(edges: FloatArray) -> FloatArray:
    """log f = -x^2 / (2 scale^2) in each bin, scaled by `norm_scale`."""
    return -0.5 * (representatives(edges) / norm_scale(edges)) ** 2


def exponential_exponent(edges: FloatArray) -> FloatArray:
    """log f = -|x| / scale in each bin, scaled by `norm_scale`; the published exp(-||A||)."""
    return -np.abs(representatives(edges) / norm_scale(edges))
