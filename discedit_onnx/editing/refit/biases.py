"""Biases for layers that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..plan import Bias
from .goals import find_goal
from .layers import find_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from ...graph.view import View
    from .layers import Layer


def missing_biases(view: View) -> int:
    """Biases that a refit may add: one for each output of a layer that has no place for it."""
    widths = 0
    for layer in find_layers(view):
        if layer.bias is None and not find_goal(view, layer).beta:
            dims = view.initializers[layer.weight].dims
            widths += dims[1] * layer.groups if layer.transposed else dims[0]
    return widths


def zero_biases(
    coupling: Coupling, removed: NDArray[np.bool_], layers: Sequence[Layer]
) -> tuple[Bias, ...]:
    """A bias of nothing for layers that have none, so that all can be refitted alike."""
    biases = []
    for layer in (layer for layer in layers if layer.bias is None):
        tensor = coupling.view.initializers[layer.weight]
        weight = np.empty(tensor.dims, layer.stored.dtype)
        width = layer.matrix(weight).shape[2] * layer.groups
        keep = coupling.left(layer.output, layer.channel_axis, removed)
        width = width if keep is None else int(keep.sum())
        biases.append(Bias(layer.node, np.zeros(width, weight.dtype)))
    return tuple(biases)
