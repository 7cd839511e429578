"""Lower bounds on total variation from means and covariances, and their registry.

The total variation TV(P, Q) between the laws of a feature given a class (P) and given all other
classes (Q) says how well the feature tells the class apart: 1 - TV is twice the Bayes error at
equal priors. Each bound here holds for every pair of laws with the moments given, Gaussian or
not. Notation: m, v, s are mean, variance and standard deviation, S a covariance matrix,
d = m_P - m_Q and D the same for a vector.

Two layers. The functions `*_bound` take moments of any two laws; these are theorems. The
witnesses, registered by name in `WITNESSES`, apply them to calibration moments, every class
against the rest. Calibration moments are those of a sample, so what a witness returns is a
plug-in *estimate* of a bound on the model's true features: it tends to lie too high where a class
has few images, and carries no confidence.

Sources: Murti and Bhattacharyya, "DisCEdit: Model Editing by Identifying Discriminative
Components", NeurIPS 2024; Murti, Narshana and Bhattacharyya, "TVSPrune: Pruning Non-discriminative
Filters via Total Variation Separability of Intermediate Representations without Fine Tuning",
ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..calibration.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = npt.NDArray[np.float64]
Bound = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]
Witness = Callable[[Moments], FloatArray]

WITNESSES: dict[str, Witness] = {}
"""Witnesses by name. Each maps `Moments` to bounds (C, K), channels by classes, in [0, 1]."""

MEAN_RESOLUTION = 2.0**-30
"""Standard deviations below this share of the mean count as this share.

A feature computed in float32 that varies at all varies by 2**-24 of its value; what lies below
is rounding. More variance only lowers a bound, so it stays one.
"""

COVARIANCE_RESOLUTION = 1e-12
"""Variance that is added in every direction to standardised covariances.

Where features are collinear (x and x^2 of a binary x) a direction has variance 0 up to rounding,
which this exceeds as long as the mean is no more than some thousand deviations. Again, more
variance only lowers a bound.
"""

_STEPS = 32
"""Halvings of the bracket in `mpm_bound`."""

_LOG_ODDS = 24.0
"""Ends of that bracket; a spread of one law below exp(-24) of the other's is not resolved."""


def witness(name: str) -> Callable[[Witness], Witness]:
    """Register a function as the witness of this name."""

    def register(function: Witness) -> Witness:
        WITNESSES[name] = function
        return function

    return register


@witness("t1")
def t1(moments: Moments) -> FloatArray:
    """T1 with the feature itself as witness, on (mean); see `t1_bound`. Returns (C, K)."""
    return _against_rest(t1_bound, moments, ("mean",))


@witness("fisher")
def fisher(moments: Moments) -> FloatArray:
    """Best affine witness, Fisher's criterion, on (mean); see `fisher_bound`. Returns (C, K).

    This is T1 centred.
    """
    return _against_rest(fisher_bound, moments, ("mean",))


@witness("quadratic")
def quadratic(moments: Moments) -> FloatArray:
    """Best affine witness on (mean, mean_square); see `fisher_bound`. Returns (C, K).

    For neurons, whose mean over positions is the activation x itself, this is the best quadratic
    polynomial of x as witness.
    """
    return _against_rest(fisher_bound, moments, ("mean", "mean_square"))


@witness("sharp")
def sharp(moments: Moments) -> FloatArray:
    """Best bound from two means and variances, on (mean); see `sharp_bound`. Returns (C, K)."""
    return _against_rest(sharp_bound, moments, ("mean",))


@witness("mpm")
def mpm(moments: Moments) -> FloatArray:
    """Minimax probability machine on (mean, mean_square); see `mpm_bound`. Returns (C, K)."""
    return _against_rest(mpm_bound, moments, ("mean", "mean_square"))


def sign(moments: Moments) -> npt.NDArray[np.int8]:
    """Whether a channel fires more for a class than for the rest.

    Returns
    -------
    int8 (C, K)
        +1 where `mean` is larger for the class than for all other classes together, -1 where it
        is smaller, 0 where it is equal or there are no images of one of the two.
    """
    chosen = moments.select(("mean",))
    rest = chosen.rest()
    difference = np.sign(chosen.mean - rest.mean)[..., 0].astype(np.int8)
    difference[_unseen(chosen, rest)] = 0
    return np.ascontiguousarray(difference.T)


def _against_rest(bound: Bound, moments: Moments, features: Sequence[str]) -> FloatArray:
    """Apply a bound to every channel and class against all others; 0 where one has no images."""
    chosen = moments.select(features)
    rest = chosen.rest()
    values = bound(chosen.mean, chosen.covariance, rest.mean, rest.covariance)
    values[_unseen(chosen, rest)] = 0.0
    return np.ascontiguousarray(values.T)


def _unseen(chosen: Moments, rest: Moments) -> npt.NDArray[np.bool_]:
    """Classes (K,) that nothing can be said of."""
    unseen: npt.NDArray[np.bool_] = (chosen.count == 0) | (rest.count == 0)
    return unseen


def t1_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Witness bound T1 with f(x) = x, uncentred; of several features, the best one's.

        TV >= d^2 / (2 (E_P x^2 + E_Q x^2))

    Proof, for any f: (int f (p - q))^2 <= int f^2 |p - q| . int |p - q|
    <= int f^2 (p + q) . 2 TV, by Cauchy and Schwarz. From the DisCEdit paper. It depends on where
    zero lies and is at most 1/2 for features that are not negative; `fisher_bound` is never
    smaller and costs the same.

    Parameters
    ----------
    mean_p, mean_q : (..., F)
        Means of F features under the two laws.
    cov_p, cov_q : (..., F, F)
        Their covariances (population: divisor n).

    Returns
    -------
    float64 (...)
        Lower bounds on TV(P, Q), in [0, 1].
    """
    spread = np.hypot(_deviation(cov_p), _deviation(cov_q))
    size = np.hypot(np.hypot(mean_p, mean_q), spread)  # sqrt(E_P x^2 + E_Q x^2)
    values: FloatArray = 0.5 * (np.abs(mean_p - mean_q) / _nonzero(size)).max(axis=-1) ** 2
    return values


def fisher_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Best affine witness: T1 with the best linear map of the features and the best constant.

        TV >= F / (2 + F),    F = D' (S_P + S_Q)^-1 D    (one feature: d^2 / (v_P + v_Q))

    F is Fisher's criterion. Proof: in T1 put f - (E_P f + E_Q f) / 2 for f, which does not change
    the numerator and makes the denominator v_P + v_Q + d^2 / 2 at f, the least over constants;
    the best linear f = w'z is w = (S_P + S_Q)^-1 D. From the DisCEdit paper.

    Parameters and returned array are those of `t1_bound`.
    """
    delta, _ = _whiten(*_standardise(mean_p, cov_p, mean_q, cov_q))
    criterion: FloatArray = (delta**2).sum(axis=-1)
    return criterion / (2.0 + criterion)


def sharp_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Best bound that two means and two variances allow; of several features, the best one's.

        TV >= k^2 / (1 + k^2),    k = |d| / (s_P + s_Q)

    Proof: let t = TV, so P = (1 - t) M + t P' and Q = (1 - t) M + t Q' with M the common part.
    Then d = t (m_P' - m_Q') and s_P^2 >= t (1 - t) (m_P' - m_M)^2, likewise for Q; adding the
    roots, s_P + s_Q >= sqrt(t (1 - t)) |d| / t. It is attained, by M, P' and Q' at one point
    each, hence never below `fisher_bound` of one feature.

    Parameters and returned array are those of `t1_bound`.
    """
    delta, _, _ = _standardise(mean_p, cov_p, mean_q, cov_q)  # d / (s_P + s_Q)
    ratio: FloatArray = np.abs(delta).max(axis=-1) ** 2
    return ratio / (1.0 + ratio)


def mpm_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Best linear map of the features under `sharp_bound`: the minimax probability machine.

        TV >= k^2 / (1 + k^2),    k = max_w |w'D| / (b + e),
        b = sqrt(w' S_P w),    e = sqrt(w' S_Q w)

    Lanckriet et al., "A robust minimax approach to classification", 2002; the published code of
    DisCEdit has the smaller (k / (sqrt 2 + k))^2. Never below `fisher_bound` of all features nor
    `sharp_bound` of each.

    The best w solves w = (S_P / b + S_Q / e)^-1 D. Only the share r = b / (b + e) is unknown in
    it, and by Cauchy and Schwarz

        k^2 = max_r g(r),    g(r) = D' (S_P / r + S_Q / (1 - r))^-1 D,    0 < r < 1,

    a concave function (a sum of parallel sums, once S_P and S_Q are diagonal in one basis), whose
    slope has the sign of b / (b + e) - r. Iterating r <- b / (b + e) climbs, but can be
    arbitrarily slow where one law hardly varies; halving a bracket of log r / (1 - r) by that sign
    finds the maximum in a fixed number of steps, to 1e-10 of k^2 as a rule. Every r is a valid
    bound, so the result is one wherever it stops. r = 1/2 is `fisher_bound`.

    Parameters and returned array are those of `t1_bound`.
    """
    delta, cov_p, cov_q = _standardise(mean_p, cov_p, mean_q, cov_q)
    alone = np.abs(delta).max(axis=-1) ** 2
    white, share_p = _whiten(delta, cov_p, cov_q)
    low = np.full(white.shape[:-1], -_LOG_ODDS)
    high = -low
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        best, slope = _parallel_sum(white, share_p, middle)
        rising = slope > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    affine = 0.5 * (white**2).sum(axis=-1)
    ratio: FloatArray = np.maximum(np.maximum(best, affine), alone)
    return ratio / (1.0 + ratio)


def _parallel_sum(
    white: FloatArray, share_p: FloatArray, log_odds: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """g(r) of `mpm_bound` and its slope, in the basis of `_whiten`; r is given by log odds."""
    r = 1.0 / (1.0 + np.exp(-log_odds[..., None]))
    mixed = share_p * (1.0 - r) + (1.0 - share_p) * r
    value = r * (1.0 - r) / mixed
    slope = (share_p * (1.0 - r) ** 2 - (1.0 - share_p) * r**2) / mixed**2
    square = white**2
    return (square * value).sum(axis=-1), (square * slope).sum(axis=-1)


def _standardise(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Difference of the means and covariances with each feature in units of s_P + s_Q.

    The bounds do not depend on units; equal ones keep features of very different size (x and
    x^2) from spoiling each other's digits. Standard deviations are raised to `MEAN_RESOLUTION`
    of the mean, and `COVARIANCE_RESOLUTION` is added to the variances that result. A feature
    that is 0 throughout has difference 0.
    """
    least = MEAN_RESOLUTION * np.maximum(np.abs(mean_p), np.abs(mean_q))
    s_p = np.hypot(_deviation(cov_p), least)
    s_q = np.hypot(_deviation(cov_q), least)
    unit = _nonzero(s_p + s_q)
    diagonal = np.eye(unit.shape[-1], dtype=bool)

    def scaled(cov: FloatArray, s: FloatArray) -> FloatArray:
        off = cov / unit[..., :, None] / unit[..., None, :]
        return np.where(diagonal, ((s / unit) ** 2 + COVARIANCE_RESOLUTION)[..., None], off)

    return (mean_p - mean_q) / unit, scaled(cov_p, s_p), scaled(cov_q, s_q)


def _whiten(
    delta: FloatArray, cov_p: FloatArray, cov_q: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A basis in which S_P + S_Q is the identity and S_P is diagonal.

    Needs the output of `_standardise`, where no eigenvalue is below its resolution.

    Returns
    -------
    white : (..., F)
        The difference of the means in this basis.
    share_p : (..., F)
        The diagonal of S_P there, in [0, 1]; that of S_Q is the rest to 1.
    """
    variance, axes = np.linalg.eigh(cov_p + cov_q)
    # Below the resolution only if the covariances given were not positive semi-definite.
    root = np.sqrt(np.maximum(variance, COVARIANCE_RESOLUTION))
    whitener = axes / root[..., None, :]  # columns: principal axes, unit variance along each
    excess = np.swapaxes(whitener, -1, -2) @ (cov_p - cov_q) @ whitener
    contrast, rotation = np.linalg.eigh(excess)
    white = (delta[..., None, :] @ whitener @ rotation)[..., 0, :]
    return white, np.clip(0.5 + 0.5 * contrast, 0.0, 1.0)


def _deviation(cov: FloatArray) -> FloatArray:
    """Standard deviations (..., F) from covariances; rounding may leave a variance below 0."""
    return np.sqrt(np.maximum(np.diagonal(cov, axis1=-2, axis2=-1), 0.0))


def _nonzero(values: FloatArray) -> FloatArray:
    """Divisors: 1 in place of 0, where the dividend is 0 too."""
    return np.where(values == 0.0, 1.0, values)
