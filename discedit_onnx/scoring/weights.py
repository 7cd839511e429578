"""Scores that need no data: the size of a component's own weights, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..graph.axes import Block
    from ..graph.coupling import Coupling


def magnitude(coupling: Coupling, order: int) -> NDArray[np.float64]:
    """Mean norm of the filters that make a component, each relative to its layer's mean.

    Parameters
    ----------
    coupling
        Of the model.
    order
        1 or 2, the norm.

    Returns
    -------
    ndarray of float64, shape (components,)
    """
    total, count = np.zeros(coupling.size), np.zeros(coupling.size)
    for block in _producers(coupling):
        weights = numpy_helper.to_array(coupling.view.initializers[block.tensor])
        rows = np.moveaxis(weights, block.axis, 0).astype(np.float64)
        norms = np.linalg.norm(rows.reshape(len(rows), -1), ord=order, axis=1)
        components = coupling.of(np.arange(block.start, block.stop))
        free = components >= 0
        np.add.at(total, components[free], norms[free] / max(norms.mean(), 1e-300))
        np.add.at(count, components[free], 1)
    return total / np.maximum(count, 1)


def _producers(coupling: Coupling) -> Iterator[Block]:
    """Axes of weights along which components are made, not consumed."""
    consumed = [c.weights for c in coupling.contractions if c.weights is not None]
    variables = set(np.concatenate(consumed).tolist()) if consumed else set()
    for block in coupling.blocks:
        if len(coupling.view.initializers[block.tensor].dims) > 1 and block.start not in variables:
            yield block


def chance(coupling: Coupling, seed: int) -> NDArray[np.float64]:
    """Random numbers.

    Returns
    -------
    ndarray of float64, shape (components,)
    """
    return np.random.default_rng(seed).random(coupling.size)
