"""Level features, from data: two projections that need second moments of what layers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..refit.layers import exact_layers
from .spans import later_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ...calibration.second import SecondMoments
    from ...graph.view import View
    from ..refit.layers import Layer

    Map = tuple[NDArray[np.float64], NDArray[np.float64]]
    """Of a row x: matrix (F, F) and offset (F,) of ``x @ matrix + offset``."""

FORGOTTEN_SCALE = 3.0
"""How sharply the directions of the class are removed by `svd_map`."""
RETAINED_DECADES = 3.5, 1.5
"""How sharply those of the others are kept: ten to the first, less the second times strength. The
paper tries 10 to 1000; strengths from 0.25 to 1.5 are 1334 to 18."""
RIDGE = 1e-3
"""Of covariances, relative to their mean variance."""


@dataclass(frozen=True)
class Eraser:
    """A method that edits what layers read, by second moments of it.

    Attributes
    ----------
    layers
        Of a model and its head: the layers that it edits.
    map
        Of retained rows, forgotten rows, and a strength: what rows become; None if they stay.
    """

    layers: Callable[[View, Layer], list[Layer]]
    map: Callable[[SecondMoments, SecondMoments, float], Map | None]


def svd_map(retained: SecondMoments, gone: SecondMoments, strength: float) -> Map:
    """Projection by the singular vectors of retained and of forgotten rows.

    With ``L(a) = a s / ((a - 1) s + 1)`` of the shares s of the squared singular values,
    P = U L U' for each of the two, a row x becomes ``x (1 - P_f (1 - P_r))``: what the class uses
    and the others do not is gone. Kodge, Saha and Roy, Deep Unlearning, TMLR 2024.
    """
    most, fall = RETAINED_DECADES
    keep = _importance(retained, 10 ** (most - fall * strength))
    erase = _importance(gone, FORGOTTEN_SCALE)
    unit = np.eye(len(keep))
    return unit - erase @ (unit - keep), np.zeros(len(keep))


def _importance(rows: SecondMoments, scale: float) -> NDArray[np.float64]:
    """Kodge's scaled projection on the directions of some rows, (F, F)."""
    values, vectors = np.linalg.eigh(rows.uncentred)
    share = np.maximum(values, 0) / max(values.sum(), np.finfo(float).tiny)
    importance: NDArray[np.float64] = scale * share / ((scale - 1) * share + 1)
    return np.asarray((vectors * importance) @ vectors.T)


def leace_map(retained: SecondMoments, gone: SecondMoments, strength: float) -> Map | None:
    """Least-squares concept erasure; None where the means are the same.

    ``x - d v'(x - m)`` with d the difference of the means, v = S^-1 d / d'S^-1 d: nothing linear in
    the result tells the class from the rest, at strength 1, and no other affine map that reaches
    this changes x less. Belrose and others, LEACE, 2023. The concept is the set of classes.
    """
    both = retained.merge(gone)
    covariance = both.comoment / max(both.count, 1)
    width = len(covariance)
    ridge = RIDGE * max(np.trace(covariance) / width, np.finfo(float).tiny)
    difference = gone.mean - retained.mean
    read = np.linalg.solve(covariance + ridge * np.eye(width), difference)
    scale = difference @ read
    if scale <= 0:
        return None
    removed = strength * np.outer(read, difference) / scale
    return np.eye(width) - removed, both.mean @ removed


def _all_layers(view: View, head: Layer) -> list[Layer]:
    """All of one group, the head among them; rows are the patches that a kernel sees."""
    return [
        layer for layer in exact_layers(view) if layer.groups == 1 and layer.op != "ConvTranspose"
    ]


def _later_layers(view: View, head: Layer) -> list[Layer]:
    return [layer for layer, _ in later_layers(view, head)]


ERASERS = {"svd": Eraser(_all_layers, svd_map), "leace": Eraser(_later_layers, leace_map)}
