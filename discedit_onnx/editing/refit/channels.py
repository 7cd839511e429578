"""A layer's whole input told from the channels that are left of it, and folded into its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .equations import Fit, Rows, fit_rows
from .patches import Window
from .sampling import sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .layers import Layer

    Inputs = Iterable[tuple[NDArray[Any], NDArray[Any]]]


def fit_channels(
    layer: Layer, dense: Fit, left: NDArray[np.bool_], inputs: Inputs, images: int, seed: int
) -> Fit:
    """Weights for what is left of a layer's input, by a regression from channel to channel.

    Each channel of the dense network's input x is told from those that are left, x' of the pruned
    network at the same place, by ridge regression; with x = A'x' + a the layer's weights W become
    A W at each place of its window, and a goes into its bias. That takes far fewer unknowns than
    a regression of the outputs on patches, and knows less: what neighbouring places could tell.

    Parameters
    ----------
    layer
        Of one group.
    dense
        Its weights for all inputs, and the outputs that are wanted.
    left
        Which channels of its input there still are, shape (channels,).
    inputs
        Its input in the pruned and in the dense network, batch by batch.
    images
        How many there are in all.
    seed
        Of the places that are looked at.
    """
    found = sample(_at_points(layer), ((x, [whole]) for x, whole in inputs), images, seed)
    nothing = np.zeros((1, 1, 1), np.float32)
    rows = Rows(found.x, found.tensors[0], nothing, nothing + 1, -np.inf, np.inf)
    picks = Fit(np.eye(len(left))[None, left], np.zeros((1, len(left))))
    told, _, _ = fit_rows(rows, found.held_out, picks)
    weights = dense.matrix[0].reshape(len(left), -1)
    outputs = dense.matrix.shape[2]
    shift = (told.bias @ weights).reshape(-1, outputs).sum(axis=0)
    return Fit((told.matrix[0] @ weights).reshape(1, -1, outputs), dense.bias + shift)


def _at_points(layer: Layer) -> Layer:
    """A layer of the same input that looks at one place at a time."""
    if layer.window is None:
        return layer
    axes = len(layer.window.kernel)
    ones = (1,) * axes
    return replace(layer, window=Window(ones, ones, ones, ((0, 0),) * axes, ones))
