"""The first of two layers in a row, fitted to what the second should give.

A channel that is left between two layers need not stay what it was: the best one for the second
layer is, where it can also carry something of the channels that are gone. With the second layer
fixed and the activation taken as straight around where it is, that is linear least squares in the
first layer's weights, solved by conjugate gradients; the second layer is then refitted, and so on
in turn: alternating least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .equations import OVERFLOW, Fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .pairs import Bend
    from .sliding import Sliding

    Floats = NDArray[np.float32]

RIDGE = 1e-2
"""Draws weights to what they are, as a share of the mean variance that they are multiplied with."""
ITERATIONS = 4
"""Of conjugate gradients: few, for what they add later is fitted to chance."""
ROWS_PER_FEATURE = 30
"""Rows that tell the inputs' moments well enough for a preconditioner."""
LENGTHS = (1.0, 0.5, 0.25)
"""Shares of a step that are tried, where the activation is not straight."""


@dataclass(frozen=True, eq=False)
class Side:
    """A layer of a pair: how it slides over a region, and what is done to what it gives.

    Attributes
    ----------
    slide
        The layer on regions.
    scale, shift
        Behind it, float32 (channels,) or (1,).
    """

    slide: Sliding
    scale: Floats
    shift: Floats

    def apply(self, x: Floats, fit: Fit) -> Floats:
        """What the next thing reads."""
        y = self.slide.apply(x, fit.matrix.astype(np.float32))
        return (y + fit.bias.reshape(-1).astype(np.float32)) * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Regions:
    """What two layers read, and should give, in regions of some images.

    Attributes
    ----------
    x
        Of the first layer's input, (N, *inside, C).
    there
        1 where the map between the layers has a place, else 0, (N, *between, 1).
    aim, other
        What the second should come to, and what is added to it, (N, *out, O); `other` may be
        (1, ..., 1) zeros.
    """

    x: Floats
    there: Floats
    aim: Floats
    other: Floats

    def select(self, chosen: NDArray[np.bool_]) -> Regions:
        """Some of the regions."""
        other = self.other[chosen] if len(self.other) > 1 else self.other
        return Regions(self.x[chosen], self.there[chosen], self.aim[chosen], other)


@dataclass(frozen=True, eq=False)
class Joint:
    """Two layers in a row with one goal.

    Attributes
    ----------
    first, second
        The layers.
    bend
        The activation between them.
    low, high
        Where the activation behind the second is flat.
    """

    first: Side
    second: Side
    bend: Bend
    low: float
    high: float

    @OVERFLOW
    def improve(self, seen: Regions, unseen: Regions, first: Fit, second: Fit) -> Fit | None:
        """Better weights for the first layer, or None where no step helps on unseen regions."""
        before = self.error(unseen, first, second)
        step = self._step(seen, first, second)
        for length in LENGTHS:
            found = Fit(first.matrix + length * step.matrix, first.bias + length * step.bias)
            if self.error(unseen, found, second) < before:
                return found
        return None

    def error(self, regions: Regions, first: Fit, second: Fit) -> float:
        """Mean squared distance from the aim, behind the activation."""
        between = self.bend.value(self.first.apply(regions.x, first)) * regions.there
        seen = self.second.apply(between, second) + regions.other
        missing = np.clip(seen, self.low, self.high) - np.clip(regions.aim, self.low, self.high)
        return float(np.mean(missing**2, dtype=np.float64))

    def _step(self, regions: Regions, first: Fit, second: Fit) -> Fit:
        """The change of the first layer that least squares ask for, all else as straight lines."""
        inner = self.first.apply(regions.x, first)
        slope = self.bend.slope(inner) * self.first.scale
        seen = self.second.apply(self.bend.value(inner) * regions.there, second) + regions.other
        missing = self._missing(regions.aim, seen)
        there = np.flatnonzero(regions.there)
        rows = self.first.slide.patches(regions.x, there)
        straight = slope.reshape(-1, slope.shape[-1])[there]
        system = _System(rows, straight, there, inner.shape, self.second, second)
        return system.solve(missing)

    def _missing(self, aim: Floats, seen: Floats) -> Floats:
        """What is to be added; nothing where both are where the activation is flat."""
        flat = ((aim <= self.low) & (seen <= self.low)) | ((aim >= self.high) & (seen >= self.high))
        return np.where(flat, np.float32(0), np.clip(aim, self.low, self.high) - seen)


class _System:
    """Normal equations of the first layer's weights and biases, never written out.

    Parameters
    ----------
    rows
        What the first layer multiplies, (groups, places, features).
    slope
        What a change of its outputs comes to in front of the second layer, (places, channels).
    there
        Which places these are, of a map between the layers.
    between
        Shape of that map, channels last.
    second, fit
        The second layer and its weights.
    """

    def __init__(
        self,
        rows: Floats,
        slope: Floats,
        there: NDArray[np.int64],
        between: tuple[int, ...],
        second: Side,
        fit: Fit,
    ) -> None:
        self._rows, self._slope, self._groups = rows, slope, len(rows)
        self._there, self._between, self._second = there, between, second.slide
        outputs = fit.matrix.shape[2]
        scale = np.broadcast_to(second.scale, second.slide.groups * outputs)
        self._matrix = fit.matrix.astype(np.float32) * scale.reshape(-1, 1, outputs)
        # For each channel between: how strongly it is read, and how often it passes on changes.
        read = (self._matrix**2).sum(axis=2).reshape(-1, second.slide.window.size).sum(1)
        passed = (slope**2).sum(axis=0)
        self._energy = (read * passed).astype(np.float64) + 1e-30
        self._energy += 1e-3 * self._energy.mean()
        enough = ROWS_PER_FEATURE * rows.shape[2]
        some = rows[:, :: max(1, rows.shape[1] // enough)]
        gram = (some.transpose(0, 2, 1) @ some).astype(np.float64) / some.shape[1]
        features = gram.shape[1]
        self._level = np.trace(gram, axis1=1, axis2=2) / features + 1e-30
        damped = gram + 1e-3 * self._level[:, None, None] * np.eye(features)
        self._inverse = np.linalg.inv(damped).astype(np.float32)

    def solve(self, missing: Floats) -> Fit:
        """Conjugate gradients, preconditioned by the inputs' moments and the channels' energy."""
        residual = self._transposed(missing)
        found = Fit(np.zeros_like(residual.matrix), np.zeros_like(residual.bias))
        direction = nearer = self._preconditioned(residual)
        size = _dot(residual, nearer)
        for _ in range(ITERATIONS):
            if not size > 0:
                break
            image = self._normal(direction)
            length = size / (_dot(direction, image) + 1e-300)
            found = _sum(found, direction, length)
            residual = _sum(residual, image, -length)
            nearer = self._preconditioned(residual)
            before, size = size, _dot(residual, nearer)
            direction = _sum(nearer, direction, size / before)
        return found

    def _normal(self, change: Fit) -> Fit:
        """Forth and back, and the ridge."""
        given = self._rows @ change.matrix.astype(np.float32)
        given += change.bias[:, None].astype(np.float32)
        inner = np.zeros((math.prod(self._between[:-1]), self._between[-1]), np.float32)
        inner[self._there] = given.transpose(1, 0, 2).reshape(self._slope.shape) * self._slope
        found = self._transposed(self._second.apply(inner.reshape(self._between), self._matrix))
        energy = RIDGE * self._by_output(self._energy)
        return Fit(
            found.matrix + energy[:, None] * self._level[:, None, None] * change.matrix,
            found.bias + energy * change.bias,
        )

    def _transposed(self, y: Floats) -> Fit:
        inner = self._second.back(y, self._matrix).reshape(-1, self._between[-1])[self._there]
        inner *= self._slope
        split = inner.reshape(len(inner), self._groups, -1).transpose(1, 0, 2)
        matrix = self._rows.transpose(0, 2, 1) @ split
        return Fit(matrix.astype(np.float64), split.sum(axis=1, dtype=np.float64))

    def _preconditioned(self, change: Fit) -> Fit:
        energy = self._by_output(self._energy)
        matrix = self._inverse @ change.matrix.astype(np.float32) / energy[:, None]
        return Fit(matrix.astype(np.float64), change.bias / energy)

    def _by_output(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values.reshape(self._groups, -1)


def _dot(a: Fit, b: Fit) -> float:
    return float((a.matrix * b.matrix).sum() + (a.bias * b.bias).sum())


def _sum(a: Fit, b: Fit, share: float) -> Fit:
    return Fit(a.matrix + share * b.matrix, a.bias + share * b.bias)
