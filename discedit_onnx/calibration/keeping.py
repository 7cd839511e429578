"""What is kept of the classes, so that moments stay small where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .histograms import BINS, FOLDS
from .moments import POOLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

LIMIT = 512 * 2**20
"""Bytes that moments of all classes may take."""

OTHER, ALL = "(other)", "(all)"
"""Names of the pooled entry: beside classes, and where no class is kept."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The entries of moments, and what each holds.

    Attributes
    ----------
    class_names, class_index
        See `Moments`.
    features
        The features whose moments are kept.
    histograms
        Whether their histograms are.
    said
        All that, in words.
    """

    class_names: tuple[str, ...]
    class_index: npt.NDArray[np.int64]
    features: tuple[str, ...]
    histograms: bool
    said: str

    def nbytes(self, channels: int) -> int:
        """Size of moments of so many channels, however many images are counted."""
        size = len(self.features)
        entry = 8 * size * (1 + size) + (4 * FOLDS * BINS if self.histograms else 0)
        edges = 4 * (BINS - 1) if self.histograms else 0
        return channels * (len(self.class_names) * entry + edges)


def what_to_keep(
    class_names: Sequence[str],
    channels: int,
    features: Sequence[str],
    classes: Sequence[int] = (),
    limit: int = LIMIT,
) -> Kept:
    """The most that can be kept in `limit` bytes.

    In this order: everything; everything but histograms; mean and variance of one feature, without
    its covariances with others; the totals of all classes.

    Parameters
    ----------
    class_names
        Of all the model's classes.
    channels
        How many channels are tapped.
    features
        Those asked for; the first is the one that is kept alone.
    classes
        The classes to keep one by one; all others are pooled. None at all means every class.

    Raises
    ------
    UsageError
        If there is no such class, or those asked for do not fit.
    """
    total = len(class_names)
    for k in classes:
        if not 0 <= k < total:
            raise UsageError(f"--classes {k}: no such class; the model has 0 to {total - 1}")
    chosen = sorted(set(classes)) or list(range(total))
    pooled = len(chosen) < total
    names = tuple(class_names[k] for k in chosen) + ((OTHER,) if pooled else ())
    index = np.array([*chosen, *([POOLED] if pooled else [])], np.int64)
    said = f"{len(chosen)} classes, {total - len(chosen)} pooled" if pooled else "all classes"
    rungs = [
        Kept(names, index, tuple(features), True, said),
        Kept(names, index, tuple(features), False, f"{said}, no histograms"),
        Kept(names, index, (features[0],), False, f"{said}, only {features[0]}, no histograms"),
    ]
    if not classes:
        everything = np.array([POOLED], np.int64)
        rungs.append(Kept((ALL,), everything, tuple(features), True, "totals of all classes"))
    for kept in rungs:
        if kept.nbytes(channels) <= limit:
            return kept
    if not classes:
        return rungs[-1]
    raise UsageError(
        f"--classes: {len(chosen)} classes of {channels:,} channels take "
        f"{rungs[-1].nbytes(channels) / 2**20:,.0f} MB, more than {limit / 2**20:,.0f}: keep fewer"
    )
