"""Moments that grow in place, batch by batch."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .histograms import Histograms
from .moments import POOLED, Moments
from .products import multiplier
from .second import Positions, SecondMoments
from .sums import GrowingSums, Sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .products import Times


class Accumulator:
    """Adds batches to moments without copying them; the cost of a batch is that of its classes.

    Parameters
    ----------
    start
        The moments of the images so far, empty ones or those of a checkpoint. They stay as they
        are.
    """

    def __init__(self, start: Moments) -> None:
        self._sums = GrowingSums(start.sums)
        found = start.histograms
        self._histograms = found and Histograms(found.feature, found.edges, found.counts.copy())
        self._second = {
            name: SecondMoments(part.count, part.mean.copy(), part.comoment.copy())
            for name, part in start.second.items()
        }
        self._correct = start.correct
        # What they are of; the arrays that were copied need not stay in memory with the copies.
        size = start.mean.shape
        self._start = replace(start, histograms=None, second={}, **vars(Sums.zeros(*size)))
        kept = np.flatnonzero(start.class_index != POOLED)
        self._kept = kept[np.argsort(start.class_index[kept])]
        pooled = np.flatnonzero(start.class_index == POOLED)
        self._pooled = int(pooled[0]) if len(pooled) else None

    @cached_property
    def _times(self) -> Times:
        return multiplier()

    @property
    def moments(self) -> Moments:
        """The moments so far; histograms and second moments share memory with the accumulator."""
        for part in self._second.values():
            part.mirror()
        return replace(
            self._start,
            **vars(self._sums.sums),
            histograms=self._histograms,
            second=self._second,
            correct=self._correct,
        )

    def update(
        self,
        features: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        index: npt.NDArray[np.integer] | None = None,
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        features : (N, C, F)
            The features of N images, of any float type; F may lie first in memory.
        labels : (N,)
            Their classes, as indices of the model's outputs.
        index : (N,)
            Position of each image in the data set, -1 for one that is not to be counted in the
            histograms, because their edges were made of it. None counts no image.

        Raises
        ------
        DataError
            If a label is not one of the classes, or a feature is not finite.
        ValueError
            If the shapes do not fit.
        """
        expected = (len(labels), *self._start.mean.shape[1:])
        if features.shape != expected:
            raise ValueError(f"features are {features.shape}, not {expected}")
        if not len(labels):
            return
        classes = self._entries(labels)
        self._check_finite(features)
        self._sums.add(features, classes)
        if self._histograms is not None and index is not None:
            counted = index >= 0
            feature = self._start.features.index(self._histograms.feature)
            values = features[counted, :, feature].astype(np.float32, copy=False)
            self._histograms = self._histograms.add(values, classes[counted], index[counted])

    def add_correct(self, number: int) -> None:
        """Count images that the model puts into their class."""
        self._correct = (self._correct or 0) + number

    def add_second(self, batch: Mapping[str, SecondMoments | Positions]) -> None:
        """Add a batch's second moments, or the values to make them of, by tensor."""
        for name, part in batch.items():
            known = self._second[name]
            if isinstance(part, Positions):
                self._second[name] = known.add_positions(part, self._times)
            else:
                self._second[name] = known.add(part)

    def _entries(self, labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The entry of each image's class: its own, or the pooled one."""
        known = self._start.class_index[self._kept]
        place = np.minimum(np.searchsorted(known, labels), max(len(known) - 1, 0))
        own = known[place] == labels if len(known) else np.zeros(len(labels), bool)
        if labels.min() < 0 or (self._pooled is None and not own.all()):
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()}, but the model has "
                f"{len(known)} classes, counted from 0: use data with its classes"
            )
        entries = self._kept[place] if len(known) else np.zeros(len(labels), np.int64)
        return entries if self._pooled is None else np.where(own, entries, self._pooled)

    def _check_finite(self, features: npt.NDArray[np.floating]) -> None:
        """Name the first tap with a feature that is infinite or not a number."""
        finite = np.isfinite(features).all(axis=(0, 2))
        if not finite.all():
            slices = self._start.slices
            tensor = next(name for name, part in slices.items() if not finite[part].all())
            raise DataError(
                f"tensor {tensor!r} holds values that overflow or are not numbers: "
                "check that the preprocessing is the one that the model was trained with"
            )
