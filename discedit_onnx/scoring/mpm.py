"""The minimax probability machine: the best linear map of several features under T3.

Lanckriet, El Ghaoui, Bhattacharyya and Jordan, "A robust minimax approach to classification",
JMLR 2002. Arguments and shapes are those of `bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bounds import FloatArray, sharp_bound, whiten

STEPS = 10
"""Newton steps in `best_direction` for two features; more features get twice as many."""

LOG_ODDS = 24.0
"""Ends of its bracket; a spread of one law below exp(-24) of the other's is not resolved."""

TINY = 1e-300
"""Keeps logarithms and quotients of what is 0 throughout finite."""


def mpm_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """T3 for vectors.

        TV >= k^2 / (1 + k^2),    k = max_w |w'D| / (b + e),
        b = sqrt(w' S_P w),    e = sqrt(w' S_Q w)

    Proof: T3 holds for the one feature w'z, whatever w is. Never below `fisher_bound` of all
    features nor `sharp_bound` of each, and for one feature equal to the latter.

    A bound for all laws. Cost: about half a microsecond a pair for two features, the default, a few
    for more of them; no convex solver is needed, see `best_direction`.
    """
    if mean_p.shape[-1] == 1:
        return sharp_bound(mean_p, cov_p, mean_q, cov_q)
    k, _ = best_direction(*whiten(mean_p, cov_p, mean_q, cov_q))
    square = k * k
    return np.maximum(square / (1.0 + square), sharp_bound(mean_p, cov_p, mean_q, cov_q))


def mpm_paper_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """The form in DisCEdit's published code, for comparison.

        TV >= (k / (sqrt 2 + k))^2,    k as in `mpm_bound`

    Proof: (k / (sqrt 2 + k))^2 <= k^2 / (2 + k^2) <= k^2 / (1 + k^2); at k = 1 it gives 0.17 where
    0.5 can be had. A bound for all laws. Cost: that of `mpm_bound`.
    """
    best = mpm_bound(mean_p, cov_p, mean_q, cov_q)
    # Where the bound rounds to 1, so does this one.
    k = np.sqrt(best / np.maximum(1.0 - best, TINY))
    published: FloatArray = (k / (np.sqrt(2.0) + k)) ** 2
    return published


@dataclass(frozen=True)
class Radii:
    """How far the true moments may lie from those given, for each law.

    Attributes
    ----------
    shift
        The true mean m lies in the ellipsoid (m - m^)' S^^-1 (m - m^) <= shift^2.
    stretch
        The true covariance is at most stretch times the one given, S <= stretch S^, in the order
        of positive semi-definite matrices; 1 if it is known. Infinite: nothing is known.

    Both have a shape that broadcasts to that of the bounds.
    """

    shift: FloatArray
    stretch: FloatArray


def robust_bound(
    mean_p: FloatArray,
    cov_p: FloatArray,
    mean_q: FloatArray,
    cov_q: FloatArray,
    radii_p: Radii,
    radii_q: Radii,
) -> FloatArray:
    """T3 for the worst moments within ellipsoids around those given.

        TV >= k^2 / (1 + k^2),
        k = max_w (|w'D| - shift_P b - shift_Q e)+ / (b' + e'),    b' = sqrt(stretch_P) b, ...

    Proof: within the ellipsoids |w'(m - m^)| <= shift sqrt(w' S^ w), by Cauchy and Schwarz, and
    sqrt(w' S w) <= sqrt(stretch w' S^ w); T3 of w'z then holds with these. The w taken is the best
    for shift 0, which is the best altogether where both shifts are equal (Lanckriet et al.,
    section 3, with ellipsoids that do not depend on units).
    """
    known = np.isfinite(radii_p.stretch) & np.isfinite(radii_q.stretch)
    stretch_p = np.where(known, radii_p.stretch, 1.0)
    stretch_q = np.where(known, radii_q.stretch, 1.0)
    square, share = whiten(
        mean_p, cov_p * stretch_p[..., None, None], mean_q, cov_q * stretch_q[..., None, None]
    )
    k, balance = best_direction(square, share)
    shift_p = np.where(known, radii_p.shift, 0.0) / np.sqrt(stretch_p)
    shift_q = np.where(known, radii_q.shift, 0.0) / np.sqrt(stretch_q)
    left = np.maximum(k - shift_p * balance - shift_q * (1.0 - balance), 0.0)
    return np.where(known, left**2 / (1.0 + left**2), 0.0)


def normal_radii(count: FloatArray, features: int, confidence: float) -> Radii:
    """Radii that hold for one law at a time with a probability, if its features are normal.

    The error is shared evenly between mean and covariance. Mean: Hotelling's T^2, exact.
    Covariance: the least singular value of n - 1 standard normal vectors is at least
    sqrt(n - 1) - sqrt(F) - t except with probability exp(-t^2 / 2) (Davidson and Szarek, 2001).

    Parameters
    ----------
    count
        Images that the moments were taken of.
    features
        F.
    confidence
        Between 0 and 1, that both statements hold for the law.
    """
    from scipy.stats import f as fisher_f

    error = 0.5 * (1.0 - confidence)
    enough = count > features
    number = np.where(enough, count, features + 1.0)
    quantile = fisher_f.isf(error, features, number - features)
    shift = np.sqrt(features / (number - features) * quantile)
    least = 1.0 - (np.sqrt(features) + np.sqrt(-2.0 * np.log(error))) / np.sqrt(number - 1.0)
    stretch = np.full(np.shape(count), np.inf)
    fine = enough & (least > 0.0)
    # Moments have the divisor n, the theorem n - 1 degrees of freedom.
    stretch[fine] = (number / (number - 1.0))[fine] / least[fine] ** 2
    return Radii(shift, stretch)


def best_direction(square: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """k of `mpm_bound`, in the basis of `bounds.whiten`.

    The best w solves w = (S_P / b + S_Q / e)^-1 D. Only the ratio t = b / e is unknown in it. With
    a for the diagonal of S_P, q = a + (1 - a) t, and B = sum a D^2 / q^2, E = sum (1 - a) D^2 / q^2
    it is the root of

        log t = log(B / E) / 2,

    whose right side climbs with log t, more slowly than it. Iterating it can be arbitrarily slow
    where one law hardly varies in some direction. Newton's steps are not; one that leaves the
    bracket of what was tried before is replaced by the bracket's middle. Every w gives a valid
    bound, so the result is one wherever the steps end.

    Parameters
    ----------
    square, share : (..., F)
        As `bounds.whiten` returns them.

    Returns
    -------
    k : (...)
        |w'D| / (b + e).
    balance : (...)
        b / (b + e).
    """
    # Features first: sums over them are then sums of whole arrays.
    square = np.ascontiguousarray(np.moveaxis(square, -1, 0))
    share = np.ascontiguousarray(np.moveaxis(share, -1, 0))
    other = 1.0 - share
    log_t = np.zeros(square.shape[1:])
    low, high = log_t - 1.5 * LOG_ODDS, log_t + 1.5 * LOG_ODDS
    for _ in range(STEPS if len(square) == 2 else 2 * STEPS):
        t = np.exp(log_t)
        inverse = 1.0 / (share + other * t)
        weight = square * inverse * inverse
        pull = weight * other * inverse
        b, e = (share * weight).sum(axis=0) + TINY, (other * weight).sum(axis=0) + TINY
        slope = t * ((other * pull).sum(axis=0) / e - (share * pull).sum(axis=0) / b)
        miss = 0.5 * np.log(b / e) - log_t
        rising = miss > 0.0
        low, high = np.where(rising, log_t, low), np.where(rising, high, log_t)
        newton = np.clip(log_t + miss / np.maximum(1.0 - slope, 1e-9), -LOG_ODDS, LOG_ODDS)
        inside = (low < newton) & (newton < high) | (newton == log_t)
        log_t = np.where(inside, newton, 0.5 * (low + high))
    inverse = 1.0 / (share + other * np.exp(log_t))
    weight = square * inverse * inverse
    b, e = np.sqrt((share * weight).sum(axis=0)), np.sqrt((other * weight).sum(axis=0))
    gap = (square * inverse).sum(axis=0)
    return gap / (b + e + TINY), (b + TINY) / (b + e + 2.0 * TINY)
