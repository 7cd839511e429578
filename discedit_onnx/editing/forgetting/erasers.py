"""Level features, from data: two projections that need second moments of what layers read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..refit.layers import exact_layers
from .inputs import gather_rows
from .maps import at_input
from .spans import later_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ...calibration.data import Dataset
    from ...calibration.second import SecondMoments
    from ...graph.view import View
    from ..refit.layers import Layer
    from .maps import LayerEdit

FORGOTTEN_SCALE = 3.0
"""How sharply the directions of the class are removed by `svd_eraser`."""
RETAINED_DECADES = 3.5, 1.5
"""How sharply those of the others are kept: ten to the first, less the second times strength. The
paper tries 10 to 1000; strengths from 0.25 to 1.5 are 1334 to 18."""
RIDGE = 1e-3
"""Of covariances, relative to their mean variance."""


def svd_eraser(
    view: View,
    head: Layer,
    data: Dataset,
    forgotten: Sequence[int],
    device: str,
    batch_size: int,
) -> Callable[[float], list[LayerEdit]]:
    """Per-layer projection by the singular vectors of retained and of forgotten inputs.

    With ``L(a) = a s / ((a - 1) s + 1)`` of the shares s of the squared singular values,
    P = U L U' for each of the two, and the weights read, of a row x, ``x (1 - P_f (1 - P_r))``:
    what the class uses and the others do not is gone. Kodge, Saha and Roy, Deep Unlearning, TMLR
    2024. All layers of one group, rows are the patches that a kernel sees.

    Returns
    -------
    callable
        From a strength to edits; the head is among them.
    """
    layers = [
        each for each in exact_layers(view) if each.groups == 1 and each.op != "ConvTranspose"
    ]
    gathered = gather_rows(view, layers, data, forgotten, device, batch_size)

    def edits(strength: float) -> list[LayerEdit]:
        made = []
        most, fall = RETAINED_DECADES
        for layer, (retained, gone) in zip(layers, gathered, strict=True):
            keep = _importance(retained, 10 ** (most - fall * strength))
            erase = _importance(gone, FORGOTTEN_SCALE)
            unit = np.eye(len(keep))
            before = unit - erase @ (unit - keep)
            made.append(at_input(view, layer, before, np.zeros(len(keep))))
        return made

    return edits


def _importance(rows: SecondMoments, scale: float) -> NDArray[np.float64]:
    """Kodge's scaled projection on the directions of some rows, (F, F)."""
    values, vectors = np.linalg.eigh(rows.uncentred)
    share = np.maximum(values, 0) / max(values.sum(), np.finfo(float).tiny)
    importance: NDArray[np.float64] = scale * share / ((scale - 1) * share + 1)
    return np.asarray((vectors * importance) @ vectors.T)


def leace_eraser(
    view: View,
    head: Layer,
    data: Dataset,
    forgotten: Sequence[int],
    device: str,
    batch_size: int,
) -> Callable[[float], list[LayerEdit]]:
    """Least-squares concept erasure in front of the later layers.

    ``x - d v'(x - m)`` with d the difference of the means, v = S^-1 d / d'S^-1 d: nothing linear in
    the result tells the class from the rest, at strength 1, and no other affine map that reaches
    this changes x less. Belrose and others, LEACE, 2023. The concept is the set of classes.

    Returns
    -------
    callable
        From a strength to edits, without the head.
    """
    layers = [layer for layer, _ in later_layers(view, head)]
    gathered = gather_rows(view, layers, data, forgotten, device, batch_size)

    def edits(strength: float) -> list[LayerEdit]:
        made = []
        for layer, (retained, gone) in zip(layers, gathered, strict=True):
            both = retained.merge(gone)
            covariance = both.comoment / max(both.count, 1)
            width = len(covariance)
            ridge = RIDGE * max(np.trace(covariance) / width, np.finfo(float).tiny)
            difference = gone.mean - retained.mean
            read = np.linalg.solve(covariance + ridge * np.eye(width), difference)
            scale = difference @ read
            if scale <= 0:
                continue
            removed = strength * np.outer(read, difference) / scale
            made.append(at_input(view, layer, np.eye(width) - removed, both.mean @ removed))
        return made

    return edits
