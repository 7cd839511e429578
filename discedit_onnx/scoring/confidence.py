"""Confidence statements about two samples, each proved for every sample size and every law.

Three are enough for all certificates: how far two empirical distribution functions can lie from
the true ones, how small a difference of two probabilities can be, and how close two bounded means
with how large spreads. Each takes the two samples together. To bound each side by itself and add
the two, which is the usual way, costs up to a factor sqrt(2) of the width: both samples would
have to be at their worst at once.

Sources: Massart, "The Tight Constant in the Dvoretzky-Kiefer-Wolfowitz Inequality", 1990; Clopper
and Pearson, "The Use of Confidence or Fiducial Limits", 1934; Fisher, "Statistical Methods for
Research Workers", 1932; Maurer and Pontil, "Empirical Bernstein Bounds and Sample Variance
Penalization", 2009.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy  # its parts are loaded when they are used

if TYPE_CHECKING:
    import numpy.typing as npt

    from .bounds import FloatArray

    Counts = npt.NDArray[np.int64]

MASSART = math.sqrt(0.5 * math.log(2.0))
"""From here on exp(-2 x^2) bounds the tail of sqrt(n) sup (F_n - F), for every n."""

HALVINGS = 8
"""Steps of the search for the best tangents. Any number of them is safe; these lose < 0.001."""

BISECTIONS = 60


def band_width(count_p: FloatArray, count_q: FloatArray, error: float) -> FloatArray:
    """How far an empirical Kolmogorov-Smirnov distance can exceed the true one.

        P(sup |F_m - G_n| > sup |F - G| + width) <= error

    Proof: sup (F_m - G_n) <= sup |F - G| + U + V with U = sup (F_m - F) and V = sup (G - G_n),
    which are independent. P(U > u) <= exp(-2 m u^2) from `MASSART` / sqrt(m) on (Massart 1990,
    theorem 1), so U + V is stochastically smaller than the sum of two independent variables with
    these tails (and 1 below). The width is where the tail of that sum, a Gaussian integral, is
    error / 2; the other half is for sup (G_n - F_m). Cost: a bisection for each different pair of
    counts, and there are only as many as classes.

    Parameters
    ----------
    count_p, count_q : (...)
        Images of each side, at least 1.
    error
        Probability of failure that is allowed.
    """
    pairs = np.stack(np.broadcast_arrays(count_p, count_q), axis=-1)
    different, place = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    count_p, count_q = different.T
    low = MASSART / np.sqrt(count_p) + MASSART / np.sqrt(count_q)
    # Beyond this both one-sided bands together fail with error / 2 at most: a bracket.
    reach = math.sqrt(0.5 * math.log(max(4.0 / error, 2.0)))
    high = np.maximum(low, reach / np.sqrt(count_p) + reach / np.sqrt(count_q))
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        fails = _sum_tail(middle, count_p, count_q) > 0.5 * error
        low, high = np.where(fails, middle, low), np.where(fails, high, middle)
    width: FloatArray = high[place.reshape(pairs.shape[:-1])]
    return width


def _sum_tail(width: FloatArray, count_p: FloatArray, count_q: FloatArray) -> FloatArray:
    """P(U + V > width) for independent U, V with tails exp(-2 n u^2), all above Massart's point."""
    from_u, upto_u = MASSART / np.sqrt(count_p), width - MASSART / np.sqrt(count_q)
    total = count_p + count_q
    centre, rate = width * count_q / total, 2.0 * total
    left, right = np.sqrt(rate) * (from_u - centre), np.sqrt(rate) * (upto_u - centre)
    integral = 0.5 * (np.exp(-(left**2)) - np.exp(-(right**2))) / rate
    mass = scipy.special.erf(right) - scipy.special.erf(left)
    integral += 0.5 * centre * np.sqrt(np.pi / rate) * mass
    between = 4.0 * count_p * np.exp(-2.0 * width**2 * count_p * count_q / total) * integral
    lowest = 0.5 * np.exp(-2.0 * count_q * (width - from_u) ** 2)
    tail: FloatArray = lowest + between + np.exp(-2.0 * count_p * upto_u**2)
    return tail


def difference_bound(
    hits_p: Counts, count_p: Counts, hits_q: Counts, count_q: Counts, error: float
) -> FloatArray:
    """Lower confidence bound on P(A) - Q(A) from how often each sample hits A.

    Let a be the probability of as many hits or more if P(A) = p, and b that of as many or fewer if
    Q(A) = q. At the true p and q both are stochastically larger than uniform (this is what
    Clopper and Pearson invert) and independent, so by Fisher's combination

        P(-log a - log b > z) <= (1 + z) exp(-z) = error

    and the bound is the least p - q with log a + log b >= -z. Beta distribution functions are
    logarithmically concave in p, so this region is convex, and the part of it cut off by two
    tangents is outside: the bound returned is where the two tangents on either side of the optimum
    meet, hence never above it. Clopper-Pearson on each side at error / 2 is wider unless one
    sample is some hundred times larger.

    Parameters
    ----------
    hits_p, count_p, hits_q, count_q : int (...)
        Images in A and images in all, of either sample.
    error
        Probability of failure that is allowed.

    Returns
    -------
    float64 (...)
        In [0, 1]; 0 where nothing can be said. Cost: 18 inverse beta functions, 20 us or less.
    """
    hits_p, count_p, hits_q, count_q = np.broadcast_arrays(hits_p, count_p, hits_q, count_q)
    bound = np.zeros(hits_p.shape)
    misses_q = count_q - hits_q
    # hits_p / count_p > hits_q / count_q; with no hits, or no images, there is nothing to bound.
    worth = hits_p * count_q > hits_q * count_p
    if worth.any():
        depth = float(scipy.special.gammainccinv(2.0, error))
        first = hits_p[worth].astype(np.float64), count_p[worth].astype(np.float64)
        second = misses_q[worth].astype(np.float64), count_q[worth].astype(np.float64)
        bound[worth] = np.clip(_least_sum(*first, *second, depth) - 1.0, 0.0, 1.0)
    return bound


def _least_sum(
    hits: FloatArray, count: FloatArray, others: FloatArray, total: FloatArray, depth: float
) -> FloatArray:
    """The least p + r, r = 1 - q, whose tail probabilities have logarithms that add to -depth.

    Points of the boundary are found by how much of `depth` p takes. A tangent is u (p - p0) +
    v (r - r0) >= 0; below the optimum's share u < v, above it u > v.
    """
    one, zero = np.ones_like(hits), np.zeros_like(hits)
    # The ends: all of the depth on r, so that r >= r0 is all that is known, and all of it on p.
    low, low_u, low_v = zero, zero, one
    low_c = _lower(others, total, depth * one)[0]
    high, high_u, high_v = one, one, zero
    high_c = _lower(hits, count, depth * one)[0]
    for _ in range(HALVINGS):
        share = 0.5 * (low + high)
        p, slope_p = _lower(hits, count, share * depth)
        r, slope_r = _lower(others, total, (1.0 - share) * depth)
        # Normals of length 1 in u + v, from the logarithms of the slopes.
        u = scipy.special.expit(slope_p - slope_r)
        v = scipy.special.expit(slope_r - slope_p)
        c = u * p + v * r
        below = u < v
        low, high = np.where(below, share, low), np.where(below, high, share)
        low_u, high_u = np.where(below, u, low_u), np.where(below, high_u, u)
        low_v, high_v = np.where(below, v, low_v), np.where(below, high_v, v)
        low_c, high_c = np.where(below, c, low_c), np.where(below, high_c, c)
    # p + r as a sum of the two left sides with weights that are not negative.
    scale = high_u * low_v - low_u * high_v
    least: FloatArray = ((high_u - high_v) * low_c + (low_v - low_u) * high_c) / scale
    return least


def _lower(hits: FloatArray, count: FloatArray, depth: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Clopper and Pearson's p, where the log of the upper tail is -depth, and that log's slope.

    Returns
    -------
    p, slope : float64 (...)
        The slope d log tail / dp as a logarithm.
    """
    misses = count - hits
    p = np.asarray(scipy.special.betaincinv(hits, misses + 1.0, np.exp(-depth)), np.float64)
    density = scipy.special.xlogy(hits - 1.0, p) + scipy.special.xlog1py(misses, -p)
    return p, np.asarray(density - scipy.special.betaln(hits, misses + 1.0) + depth, np.float64)


def gap_and_spreads(
    mean_p: FloatArray,
    variance_p: FloatArray,
    count_p: FloatArray,
    mean_q: FloatArray,
    variance_q: FloatArray,
    count_q: FloatArray,
    error: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bounds on |m_P - m_Q|, s_P and s_Q for laws on [0, 1], all three at once.

        s <= s_n + sqrt(2 L / (n - 1)),                              L = log(4 / error)
        |m_P - m_Q| >= |difference of the sample means| - sqrt(2 L V) - L / (3 min(n_P, n_Q)),
        V = s_P^2 / n_P + s_Q^2 / n_Q

    Proof: the first is Maurer and Pontil's theorem 10, with error / 4 for either law. The second is
    Bernstein's inequality for the difference of the means, a sum of independent terms with
    variance V, none above 1 / min(n_P, n_Q), with error / 4 for either sign. Empirical Bernstein
    bounds of each mean by itself would add the two roots.

    Parameters
    ----------
    mean_p, mean_q : (...)
        Sample means.
    variance_p, variance_q : (...)
        Sample variances, divisor n - 1.
    count_p, count_q : (...)
        Images, at least 2.
    error
        Probability of failure that is allowed.

    Returns
    -------
    gap, s_p, s_q : float64 (...)
        A lower bound on the difference, not below 0, and upper bounds on the deviations.
    """
    log = math.log(4.0 / error)
    # Popoviciu: no law on [0, 1] has a larger deviation than 1 / 2.
    s_p = np.minimum(np.sqrt(variance_p) + np.sqrt(2.0 * log / (count_p - 1.0)), 0.5)
    s_q = np.minimum(np.sqrt(variance_q) + np.sqrt(2.0 * log / (count_q - 1.0)), 0.5)
    spread = np.sqrt(2.0 * log * (s_p**2 / count_p + s_q**2 / count_q))
    slack = spread + log / (3.0 * np.minimum(count_p, count_q))
    return np.maximum(np.abs(mean_p - mean_q) - slack, 0.0), s_p, s_q
