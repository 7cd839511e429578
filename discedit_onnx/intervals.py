"""Confidence intervals of shares of images, and of what one model loses against another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

CONFIDENCE = 0.95
"""Of each interval on its own."""


def wilson(
    hits: npt.ArrayLike, count: npt.ArrayLike, confidence: float = CONFIDENCE
) -> npt.NDArray[np.float64]:
    """Score intervals of proportions.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    Parameters
    ----------
    hits, count
        How many of how many, one at least; shapes that broadcast.
    confidence
        Of each interval.

    Returns
    -------
    (2, ...)
        Lower and upper ends.
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    n = np.asarray(count, np.float64)
    share = np.asarray(hits, np.float64) / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.stack([np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)])


def wilson_of_loss(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the share of samples on which two models differ; `before` is all true."""
    low, high = wilson((~after).sum(), len(before), confidence).tolist()
    return low, high


def newcombe(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the difference of two proportions of the same samples.

    Newcombe, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", Statistics in Medicine 1998, method 10: score intervals of each, with the
    correlation of the two.

    Parameters
    ----------
    before, after
        Whether each sample is right, shape (samples,).
    confidence
        Of the interval.
    """
    n = len(before)
    a, b = int((before & after).sum()), int((before & ~after).sum())
    c, d = int((~before & after).sum()), int((~before & ~after).sum())
    p, q = (a + b) / n, (a + c) / n
    (low_p, low_q), (high_p, high_q) = wilson([a + b, a + c], n, confidence).tolist()
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    excess = float(a * d - b * c)
    if excess > 0:
        excess = max(excess - n / 2, 0)
    phi = excess / math.sqrt(margins) if margins else 0.0

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(one * one - 2 * phi * one * two + two * two, 0.0))

    return p - q - reach(p - low_p, high_q - q), p - q + reach(high_p - p, q - low_q)
