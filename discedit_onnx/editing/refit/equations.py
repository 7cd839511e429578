"""Ridge regression of a linear layer, drawn to the weights that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .goals import is_dead

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGES = (1e-3, 1e-2, 1e-1, 0.3, 1.0)
"""Strengths that are tried, as shares of the mean variance of the inputs."""

OVERFLOW = np.errstate(over="ignore", invalid="ignore")
"""Where numbers overflow no error is better than none, and the weights stay as they are."""

TINY = 1e-200
"""What keeps the moments of inputs that are all 0 from being divided by."""

BLOCK = 8192
"""Rows that are centred at a time."""

PASSES = 3
"""Times that targets are taken anew where the activation is flat."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs and aims of one layer at some positions of some images.

    Attributes
    ----------
    x
        What the weights are multiplied with, float32 (groups, rows, features).
    aim
        What ``scale * output + other`` should be, float32 (groups, rows, outputs).
    other
        What is added, of the same shape, or (groups, 1, 1) zeros.
    scale
        (groups, 1, outputs) or ones.
    low, high
        Where the activation is flat.
    """

    x: NDArray[np.float32]
    aim: NDArray[np.float32]
    other: NDArray[np.float32]
    scale: NDArray[np.float32]
    low: float
    high: float

    def select(self, chosen: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        other = self.other[:, chosen] if self.other.shape[1] > 1 else self.other
        return Rows(self.x[:, chosen], self.aim[:, chosen], other, self.scale, self.low, self.high)

    @OVERFLOW
    def predict(self, fit: Fit) -> NDArray[np.float32]:
        """``scale * output + other`` for some weights."""
        output = self.x @ fit.matrix.astype(np.float32) + fit.bias[:, None].astype(np.float32)
        return self.scale * output + self.other

    @OVERFLOW
    def error(self, fit: Fit) -> float:
        """Mean squared distance behind the activation; not a number where there are no rows."""
        if not self.x.shape[1]:
            return math.nan
        seen, aim = (np.clip(v, self.low, self.high) for v in (self.predict(fit), self.aim))
        return float(np.mean((seen - aim) ** 2, dtype=np.float64))

    @OVERFLOW
    def spread(self) -> float:
        """Variance of the aim behind the activation."""
        return float(np.var(np.clip(self.aim, self.low, self.high), dtype=np.float64)) + 1e-300

    @OVERFLOW
    def wanted(self, fit: Fit) -> NDArray[np.float32]:
        """Targets for the output: where both aim and prediction are flat, nothing to mend."""
        seen, aim = self.predict(fit), self.aim
        below = (aim <= self.low) & (seen <= self.low)
        above = (aim >= self.high) & (seen >= self.high)
        target = np.where(below | above, seen, np.clip(aim, self.low, self.high))
        return self.in_front(target - self.other)

    def in_front(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What has these values behind the scale; as they are where it is nearly nothing."""
        scale = self.scale.copy()
        scale[is_dead(scale)] = 1
        return values / scale


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights of a layer: matrix (groups, features, outputs) and bias (groups, outputs)."""

    matrix: NDArray[np.float64]
    bias: NDArray[np.float64]


class Solver:
    """Ridge regressions with one set of inputs: the moments of x are taken once."""

    @OVERFLOW
    def __init__(self, rows: Rows) -> None:
        self._x = rows.x
        self._mean = rows.x.mean(axis=1, dtype=np.float64)
        mean, features = self._mean[:, None].astype(np.float32), rows.x.shape[2]
        self._xx = np.zeros((len(rows.x), features, features))
        for start in range(0, rows.x.shape[1], BLOCK):  # no copy of all rows
            centred = rows.x[:, start : start + BLOCK] - mean
            self._xx += centred.transpose(0, 2, 1) @ centred

    @OVERFLOW
    def solve(self, target: NDArray[np.float32], start: Fit, *ridges: float) -> list[Fit]:
        """The fits nearest to `target`, drawn to `start` by each of `ridges`.

        Minimises ``|x (m - m0) - (t - x m0)|^2 + ridge * tr(x'x) / features * |m - m0|^2`` over m,
        all centred; the bias makes up for the means.
        """
        features = self._xx.shape[1]
        unit = np.trace(self._xx, axis1=1, axis2=2)[:, None, None] / features * np.eye(features)
        mean_t = target.mean(axis=1, dtype=np.float64)
        centred = target - mean_t[:, None].astype(np.float32)
        xt = (self._x.transpose(0, 2, 1) @ centred).astype(np.float64)
        xt -= self._mean[:, :, None] * centred.sum(axis=1, dtype=np.float64)[:, None]  # rounding
        missing, least = xt - self._xx @ start.matrix, TINY * np.eye(features)
        found = []
        for ridge in ridges:
            change = np.linalg.solve(self._xx + ridge * unit + least, missing)
            matrix = start.matrix + change
            found.append(Fit(matrix, mean_t - np.einsum("gf,gfo->go", self._mean, matrix)))
        return found


def fit_rows(rows: Rows, held_out: NDArray[np.bool_], start: Fit) -> tuple[Fit, float, float]:
    """Refit a layer; what is better is decided on rows that no fit sees.

    Parameters
    ----------
    rows
        All rows.
    held_out
        Those to judge by, shape (rows,).
    start
        The weights so far.

    Returns
    -------
    fit
        With the ridge and the passes that did best; `start` if none did better.
    before, after
        Error on the held-out rows, before and after.
    """
    seen, unseen = rows.select(~held_out), rows.select(held_out)
    solver = Solver(seen)
    fits = solver.solve(seen.in_front(seen.aim - seen.other), start, *RIDGES)
    errors = [unseen.error(fit) for fit in fits]
    chosen = int(np.argmin(np.nan_to_num(errors, nan=np.inf)))
    fit, best, after = fits[chosen], fits[chosen], errors[chosen]
    bent = np.isfinite(rows.low) or np.isfinite(rows.high)
    for _ in range(PASSES if bent else 0):
        (fit,) = solver.solve(seen.wanted(fit), start, RIDGES[chosen])
        error = unseen.error(fit)
        if error < after:
            best, after = fit, error
    before = unseen.error(start)
    return (best, before, after) if after < before else (start, before, before)


def fit_bias(
    rows: Rows, held_out: NDArray[np.bool_], start: Fit, other: Fit | None = None
) -> tuple[Fit, float, float]:
    """Refit the bias alone, so that the outputs have the right mean; as `fit_rows` otherwise.

    With `other` weights these get their bias, and are taken if they are better.
    """

    seen, unseen = rows.select(~held_out), rows.select(held_out)

    def shifted(fit: Fit) -> Fit:
        missing = seen.in_front(seen.aim - seen.predict(fit))
        return Fit(fit.matrix, fit.bias + missing.mean(axis=1, dtype=np.float64))

    before = unseen.error(start)
    fits = [shifted(fit) for fit in (start, other) if fit is not None]
    after, best = min(((unseen.error(fit), fit) for fit in fits), key=lambda found: found[0])
    return (best, before, after) if after < before else (start, before, before)
