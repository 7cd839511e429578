"""Lower bounds on total variation from two means and two covariances: the theorems.

The total variation TV(P, Q) between two laws of a feature says how well it tells them apart:
1 - TV is twice the Bayes error at equal priors. Each function takes moments of any two laws and
holds for every pair of laws with these moments, `hellinger_bound` for normal ones. The arguments
are exact moments; with those of a sample the result is an estimate of a bound.

Notation: m, v, s are mean, variance and standard deviation, S a covariance matrix, d = m_P - m_Q,
D the same for a vector. Proofs with more words: docs/bounds.md.

Sources: Murti and Bhattacharyya, "DisCEdit: Model Editing by Identifying Discriminative
Components", NeurIPS 2024; Murti, Narshana and Bhattacharyya, "TVSPrune: Pruning Non-discriminative
Filters via Total Variation Separability of Intermediate Representations without Fine Tuning",
ICLR 2023; Nishiyama, "Lower Bounds for the Total Variation Distance Between Arbitrary
Distributions with Given Means and Variances", 2022.

All take

    mean_p, mean_q : float64 (..., F)      means of F features under the two laws
    cov_p, cov_q   : float64 (..., F, F)   their covariances (population: divisor n)

and return float64 (...), in [0, 1]; all cost a few passes over the arrays for one feature.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MEAN_RESOLUTION = 2.0**-30
"""This share of the mean is added to every standard deviation, in squares.

A feature computed in float32 that varies at all varies by 2**-24 of its value; what lies below
is rounding. More variance only lowers a bound, so it stays one.
"""

COVARIANCE_RESOLUTION = 1e-12
"""Variance that is added in every direction to standardised covariances.

Where features are collinear (x and x^2 of a binary x) a direction has variance 0 up to rounding,
which this exceeds as long as the mean is no more than some thousand deviations. Again, more
variance only lowers a bound.
"""


def t1_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """T1 with f(x) = x, uncentred; of several features, the best one's.

        TV >= d^2 / (2 (E_P x^2 + E_Q x^2))

    Proof, for any f: (int f (p - q))^2 <= int f^2 |p - q| . int |p - q|
    <= int f^2 (p + q) . 2 TV, by Cauchy and Schwarz. From the DisCEdit paper. It depends on where
    zero lies and is at most 1/2 for features that are not negative; `fisher_bound` is never
    smaller. A bound for all laws. Cost: a few passes over means and variances.
    """
    spread = variances(cov_p) + variances(cov_q)
    size = 2.0 * (spread + mean_p**2 + mean_q**2)
    return _best(_quotient((mean_p - mean_q) ** 2, size))


def fisher_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Best affine witness: T1 with the best linear map of the features and the best constant.

        TV >= F / (2 + F),    F = D' (S_P + S_Q)^-1 D    (one feature: d^2 / (v_P + v_Q))

    F is Fisher's criterion. Proof: in T1 put f - (E_P f + E_Q f) / 2 for f, which does not change
    the numerator and makes the denominator v_P + v_Q + d^2 / 2 at f, the least over constants;
    the best linear f = w'z is w = (S_P + S_Q)^-1 D. From the DisCEdit paper. A bound for all
    laws. Cost: a few passes over means and variances; of F features, an F x F decomposition a pair.
    """
    if mean_p.shape[-1] == 1:
        square = (mean_p - mean_q) ** 2
        v_p, v_q = resolved_variances(mean_p, cov_p, mean_q, cov_q)
        return _quotient(square, 2.0 * (v_p + v_q) + square)[..., 0]
    square, _ = whiten(mean_p, cov_p, mean_q, cov_q)
    criterion: FloatArray = square.sum(axis=-1)
    return criterion / (2.0 + criterion)


def sharp_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """T3, the best bound that two means and two variances allow; of several features, the best's.

        TV >= k^2 / (1 + k^2),    k = |d| / (s_P + s_Q)

    Proof: let t = TV, so P = (1 - t) M + t P' and Q = (1 - t) M + t Q' with M the common part.
    Then d = t (m_P' - m_Q') and s_P^2 >= t (1 - t) (m_P' - m_M)^2, likewise for Q; adding the
    roots, s_P + s_Q >= sqrt(t (1 - t)) |d| / t. It is attained, by M, P' and Q' at one point
    each (Nishiyama 2022), hence never below `fisher_bound` of one feature. A bound for all laws.
    Cost: that of `fisher_bound` and two roots.
    """
    square = (mean_p - mean_q) ** 2
    v_p, v_q = resolved_variances(mean_p, cov_p, mean_q, cov_q)
    spread = np.sqrt(v_p) + np.sqrt(v_q)
    return _best(_quotient(square, spread * spread + square))


def hellinger_bound(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> FloatArray:
    """Squared Hellinger distance of two normal laws: a bound only if both laws are normal.

        TV >= H^2 = 1 - sqrt(2 s_P s_Q / (v_P + v_Q)) exp(-d^2 / (4 (v_P + v_Q)))

    For vectors the root is of det(S_P)^(1/2) det(S_Q)^(1/2) / det((S_P + S_Q) / 2), and the
    exponent -D' (S_P + S_Q)^-1 D / 4. Proof: with the affinity A = int sqrt(p q) = 1 - H^2,
    A >= int min(p, q) = 1 - TV. TVSPrune scores by it. Features behind a ReLU are not normal,
    and then it can exceed TV: a law of variance 0 gives 1 against any that varies.
    Cost: a root and an exponential a pair; of F features, one F x F decomposition.
    """
    square, share = whiten(mean_p, cov_p, mean_q, cov_q)
    # In the basis where S_P + S_Q is the identity, S_P has `share` on its diagonal.
    floor = np.finfo(np.float64).tiny
    logs = 0.25 * np.log(np.maximum(4.0 * share * (1.0 - share), floor)) - 0.25 * square
    affinity: FloatArray = np.exp(logs.sum(axis=-1))
    return np.maximum(1.0 - affinity, 0.0)


def whiten(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A basis in which S_P + S_Q is the identity and S_P is diagonal.

    One and two features are done in closed form, more by LAPACK (about a microsecond each).

    Returns
    -------
    square : (..., F)
        Squares of the difference of the means in this basis.
    share : (..., F)
        The diagonal of S_P there, in [0, 1]; that of S_Q is the rest to 1.
    """
    delta, cov_p, cov_q = _standardise(mean_p, cov_p, mean_q, cov_q)
    if delta.shape[-1] == 1:
        total = (cov_p + cov_q)[..., 0]
        return delta**2 / total, cov_p[..., 0] / total
    if delta.shape[-1] == 2:
        return _whiten_plane(delta, cov_p, cov_p + cov_q)
    variance, axes = np.linalg.eigh(cov_p + cov_q)
    # Below the resolution only if the covariances given were not positive semi-definite.
    root = np.sqrt(np.maximum(variance, COVARIANCE_RESOLUTION))
    whitener = axes / root[..., None, :]  # columns: principal axes, unit variance along each
    excess = np.swapaxes(whitener, -1, -2) @ (cov_p - cov_q) @ whitener
    contrast, rotation = np.linalg.eigh(excess)
    white = (delta[..., None, :] @ whitener @ rotation)[..., 0, :]
    return white**2, np.clip(0.5 + 0.5 * contrast, 0.0, 1.0)


def _whiten_plane(
    delta: FloatArray, cov: FloatArray, total: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """`whiten` for two features: Cholesky's factor of the sum, then one rotation."""
    slope = total[..., 0, 1] / total[..., 0, 0]
    left = total[..., 1, 1] - slope * total[..., 0, 1]
    first = 1.0 / total[..., 0, 0]
    second = 1.0 / np.maximum(left, COVARIANCE_RESOLUTION)
    x, y = delta[..., 0], delta[..., 1] - slope * delta[..., 0]
    product = x * y * np.sqrt(first * second)
    x, y = x * x * first, y * y * second
    # S_P in the factor's basis.
    cross = cov[..., 0, 1] - slope * cov[..., 0, 0]
    a = cov[..., 0, 0] * first
    b = cross * np.sqrt(first * second)
    c = (cov[..., 1, 1] - slope * (cov[..., 0, 1] + cross)) * second
    radius = np.sqrt(0.25 * (a - c) ** 2 + b * b)
    turned = radius > 0.0
    cosine = np.divide(0.5 * (a - c), radius, out=np.ones_like(radius), where=turned)
    sine = np.divide(b, radius, out=np.zeros_like(radius), where=turned)
    along = np.clip(0.5 * (x + y) + 0.5 * cosine * (x - y) + sine * product, 0.0, x + y)
    square = np.stack([along, x + y - along], axis=-1)
    share = np.stack([0.5 * (a + c) + radius, 0.5 * (a + c) - radius], axis=-1)
    return square, np.clip(share, 0.0, 1.0)


def _standardise(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Difference of the means and covariances with each feature in units of s_P + s_Q.

    The bounds do not depend on units; equal ones keep features of very different size (x and
    x^2) from spoiling each other's digits. `COVARIANCE_RESOLUTION` is added to the variances
    that result. A feature that is 0 throughout has difference 0.
    """
    v_p, v_q = resolved_variances(mean_p, cov_p, mean_q, cov_q)
    unit = np.sqrt(v_p) + np.sqrt(v_q)
    inverse = np.divide(1.0, unit, out=np.ones_like(unit), where=unit > 0.0)
    diagonal = np.arange(unit.shape[-1])

    def scaled(cov: FloatArray, variance: FloatArray) -> FloatArray:
        result: FloatArray = cov * inverse[..., :, None] * inverse[..., None, :]
        result[..., diagonal, diagonal] = variance * inverse**2 + COVARIANCE_RESOLUTION
        return result

    return (mean_p - mean_q) * inverse, scaled(cov_p, v_p), scaled(cov_q, v_q)


def resolved_variances(
    mean_p: FloatArray, cov_p: FloatArray, mean_q: FloatArray, cov_q: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Variances (..., F) of both laws, with what lies below the resolution of float32 added."""
    least = (MEAN_RESOLUTION * np.maximum(np.abs(mean_p), np.abs(mean_q))) ** 2
    return variances(cov_p) + least, variances(cov_q) + least


def variances(cov: FloatArray) -> FloatArray:
    """Variances (..., F) from covariances; rounding may leave one below 0."""
    return np.maximum(np.diagonal(cov, axis1=-2, axis2=-1), 0.0)


def _quotient(dividend: FloatArray, divisor: FloatArray) -> FloatArray:
    """Quotients; 0 where the divisor is 0, and the dividend with it."""
    return np.divide(dividend, divisor, out=np.zeros_like(divisor), where=divisor > 0.0)


def _best(values: FloatArray) -> FloatArray:
    """The largest over features."""
    best: FloatArray = values[..., 0] if values.shape[-1] == 1 else values.max(axis=-1)
    return best
