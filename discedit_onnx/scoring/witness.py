"""The witnesses by name: which bound, of which features, and whether it assumes anything.

A witness applies one of the theorems of `bounds`, `mpm` and `binned` to calibration moments.
These are those of a sample, so what it returns is a plug-in *estimate* of a bound on the model's
true features: it tends to lie too high where a class has few images, and carries no confidence;
`certificates` has those that do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from .binned import (
    exponential_exponent,
    gaussian_exponent,
    histogram_bound,
    kernel_bound,
    threshold_bound,
)
from .bounds import FloatArray, fisher_bound, hellinger_bound, sharp_bound, t1_bound
from .comparison import Comparison, OneVsRest, single_classes
from .laws import BinnedLaws, MomentLaws
from .mpm import mpm_bound, mpm_paper_bound, normal_radii, robust_bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..calibration.moments import Moments

MOST_FEATURES = 8
"""Features that a vector form takes at most."""

ROBUST_CONFIDENCE = 0.95
"""Of the ellipsoids that `robust` draws around both laws together, if these are normal."""

NORMAL = "normal features"

BLOCK = 2**15
"""Numbers of one array that are worked on at a time; they should stay in the processor's cache."""

MomentBound = Callable[[MomentLaws, MomentLaws], FloatArray]
BinnedBound = Callable[[BinnedLaws, BinnedLaws], FloatArray]


@dataclass(frozen=True)
class Witness:
    """A lower bound on total variation, and what it is computed from.

    Attributes
    ----------
    name
        In `WITNESSES`.
    function
        Takes laws P and Q, L each, and returns bounds (L, C); its docstring is the theorem's.
    features
        The features that it takes by default; empty if it reads histograms.
    chosen
        Whether other features can be asked for.
    assumes
        What must hold for it to be a bound, in words; empty if nothing.
    """

    name: str
    function: Callable[[Any, Any], FloatArray]
    features: tuple[str, ...] = ()
    chosen: bool = False
    assumes: str = ""

    @property
    def binned(self) -> bool:
        """Whether it reads histograms, not moments."""
        return not self.features

    @property
    def kind(self) -> str:
        """What it is for exact laws, in words; for those of a sample it is an estimate."""
        return f"bound for {self.assumes}" if self.assumes else "bound"

    def reads(self, moments: Moments, features: Sequence[str] | None = None) -> tuple[str, ...]:
        """The features that it works on.

        Raises
        ------
        UsageError
            If these can't be asked of it.
        DataError
            If it reads histograms and there are none.
        """
        if self.binned:
            if moments.histograms is None:
                raise DataError(
                    f"{self.name} needs histograms, and the moments hold none: calibrate again"
                )
            if features and tuple(features) != (moments.histograms.feature,):
                raise UsageError(
                    f"the histograms are of {moments.histograms.feature}; {self.name} can't take "
                    f"{', '.join(features)}: calibrate with histograms of it"
                )
            return (moments.histograms.feature,)
        if not features:
            return self.features
        if not self.chosen:
            raise UsageError(
                f"{self.name} takes {', '.join(self.features)} and nothing else; "
                "for other features use fisher or mpm"
            )
        if len(features) > MOST_FEATURES or len(set(features)) < len(features):
            raise UsageError(f"give up to {MOST_FEATURES} features, each once")
        return tuple(features)

    def __call__(
        self,
        moments: Moments,
        comparison: Comparison | None = None,
        features: Sequence[str] | None = None,
    ) -> FloatArray:
        """Bound all channels.

        Parameters
        ----------
        moments
            Of calibration.
        comparison
            Which classes are held against which; each against the rest, if left out.
        features
            Names of the features, where not the default ones.

        Returns
        -------
        float64 (C, L)
            Channels by columns of the comparison, in [0, 1]; 0 where one side has no images.

        Raises
        ------
        UsageError
            If it can't take these features.
        DataError
            If the moments do not hold what it needs.
        """
        comparison = OneVsRest(single_classes(moments)) if comparison is None else comparison
        names = self.reads(moments, features)
        channels = moments.mean.shape[1]
        bounds = np.empty((channels, len(comparison)))
        for part in _blocks(channels, self._width(moments, comparison, len(names))):
            p: MomentLaws | BinnedLaws
            q: MomentLaws | BinnedLaws
            if self.binned:
                p, q = comparison.laws(BinnedLaws.of(moments, part))
            else:
                p, q = comparison.laws(MomentLaws.of(moments, names, part))
            values = self.function(p, q)
            values[(p.count == 0) | (q.count == 0)] = 0.0
            bounds[part] = values.T
        return bounds

    def _width(self, moments: Moments, comparison: Comparison, features: int) -> int:
        """Channels in a block."""
        size = features**2
        if moments.histograms is not None and self.binned:
            size = moments.histograms.counts.shape[-1]
        laws = max(len(comparison), len(moments.count), 1)
        return max(16, BLOCK // (laws * size))


def _blocks(channels: int, width: int) -> list[slice]:
    return [slice(start, min(start + width, channels)) for start in range(0, channels, width)]


def _of_moments(bound: Callable[..., FloatArray]) -> MomentBound:
    """A bound on means and covariances as one on laws."""

    def function(p: MomentLaws, q: MomentLaws) -> FloatArray:
        return bound(p.mean, p.covariance, q.mean, q.covariance)

    function.__doc__ = bound.__doc__
    return function


def _of_bins(bound: Callable[..., FloatArray]) -> BinnedBound:
    """A bound on shares of bins as one on laws."""

    def function(p: BinnedLaws, q: BinnedLaws) -> FloatArray:
        return bound(p.share, q.share)

    function.__doc__ = bound.__doc__
    return function


def quadratic(p: MomentLaws, q: MomentLaws) -> FloatArray:
    """Best affine witness on (mean, mean_square); see `bounds.fisher_bound`.

        TV >= F / (2 + F),    F = D' (S_P + S_Q)^-1 D of the two features

    For neurons, whose mean over positions is the activation x itself, this is the best quadratic
    polynomial of x as witness. Proof: that of `fisher_bound`. A bound for all laws. Cost: one 2 x 2
    decomposition a pair.
    """
    return fisher_bound(p.mean, p.covariance, q.mean, q.covariance)


def robust(p: MomentLaws, q: MomentLaws) -> FloatArray:
    """T3 for the worst moments within confidence ellipsoids; see `mpm.robust_bound`.

        TV >= k^2 / (1 + k^2),    k = max_w (|w'D| - shift_P b - shift_Q e)+ / (b' + e')

    Proof: there. A bound only if the features are normal: then the ellipsoids (`mpm.normal_radii`)
    hold the true moments of both laws with probability `ROBUST_CONFIDENCE`, for one component and
    class at a time. Cost: that of `mpm.mpm_bound`.
    """
    each = 0.5 * (1.0 + ROBUST_CONFIDENCE)  # the error is shared between the two laws
    size = p.mean.shape[-1]
    radii_p = normal_radii(p.count[:, None].astype(np.float64), size, each)
    radii_q = normal_radii(q.count[:, None].astype(np.float64), size, each)
    return robust_bound(p.mean, p.covariance, q.mean, q.covariance, radii_p, radii_q)


def gaussian(p: BinnedLaws, q: BinnedLaws) -> FloatArray:
    """Kernel f = exp(-x^2 / 2 scale^2), constant on each bin; see `binned.kernel_bound`.

        TV >= max(k^2 / (1 + k^2), |E_P f - E_Q f| / (max f - min f)),    k that of T3 for f

    The scale is the median norm (`binned.norm_scale`); all is computed from logarithms. Proof: a
    function of the bin is one of the feature, so nothing is approximated; T3 and T4 of f. A bound
    for all laws. Cost: a few passes over the bins.
    """
    return kernel_bound(gaussian_exponent(p.edges), p.share, q.share)


def exponential(p: BinnedLaws, q: BinnedLaws) -> FloatArray:
    """Kernel f = exp(-|x| / scale), constant on each bin; see `binned.kernel_bound`.

        TV >= max(k^2 / (1 + k^2), |E_P f - E_Q f| / (max f - min f)),    k that of T3 for f

    The published exp(-||A||), centred and scaled. Proof, as the scale: that of `gaussian`. A bound
    for all laws. Cost: a few passes over the bins.
    """
    return kernel_bound(exponential_exponent(p.edges), p.share, q.share)


MEAN = ("mean",)
BOTH = ("mean", "mean_square")

WITNESSES: dict[str, Witness] = {
    witness.name: witness
    for witness in (
        Witness("t1", _of_moments(t1_bound), MEAN, chosen=True),
        Witness("fisher", _of_moments(fisher_bound), MEAN, chosen=True),
        Witness("quadratic", quadratic, BOTH),
        Witness("sharp", _of_moments(sharp_bound), MEAN, chosen=True),
        Witness("mpm", _of_moments(mpm_bound), BOTH, chosen=True),
        Witness("mpm-paper", _of_moments(mpm_paper_bound), BOTH, chosen=True),
        Witness("robust", robust, BOTH, chosen=True, assumes=NORMAL),
        Witness("hellinger", _of_moments(hellinger_bound), MEAN, chosen=True, assumes=NORMAL),
        Witness("gaussian", gaussian),
        Witness("exponential", exponential),
        Witness("threshold", _of_bins(threshold_bound)),
        Witness("histogram", _of_bins(histogram_bound)),
    )
}
"""Witnesses by name."""


def find_witness(name: str) -> Witness:
    """The witness of this name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in WITNESSES:
        raise UsageError(f"no witness named {name!r}; there are {', '.join(WITNESSES)}")
    return WITNESSES[name]


def sign(moments: Moments, comparison: Comparison | None = None) -> npt.NDArray[np.int8]:
    """Whether a channel fires more for P than for Q.

    Returns
    -------
    int8 (C, L)
        +1 where `mean` is larger for P, -1 where it is smaller, 0 where it is equal or there are
        no images of one of the two.
    """
    comparison = OneVsRest(single_classes(moments)) if comparison is None else comparison
    channels = moments.mean.shape[1]
    signs = np.empty((channels, len(comparison)), np.int8)
    width = max(16, BLOCK // max(len(comparison), len(moments.count), 1))
    for part in _blocks(channels, width):
        p, q = comparison.laws(MomentLaws.of(moments, MEAN, part))
        values = np.sign(p.mean - q.mean)[..., 0].astype(np.int8)
        values[(p.count == 0) | (q.count == 0)] = 0
        signs[part] = values.T
    return signs
