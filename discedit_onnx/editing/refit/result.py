"""What a refit comes to: new values for a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import numpy_helper

from ...graph.view import weight_tensors
from ..plan import Bias, Update

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from .goals import Goal
    from .layers import Layer

    Placed = tuple[Layer, Layer, Goal]
    """A layer, the same in the pruned network, and its goal."""


@dataclass(frozen=True)
class Repair:
    """What became of one layer.

    Attributes
    ----------
    layer
        Name of its weight.
    before, after
        Squared error behind the activation on held-out images, relative to the variance of what
        the dense network gives there. Equal where no fit was better than none.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Refit:
    """New values for the layers of a pruned model.

    Attributes
    ----------
    updates, biases
        For a plan, next to its cuts.
    repairs
        The layers that the pruning touched, in the order of the graph.
    """

    updates: tuple[Update, ...]
    biases: tuple[Bias, ...]
    repairs: tuple[Repair, ...]


def collect(
    model: onnx.ModelProto,
    coupling: Coupling,
    removed: NDArray[np.bool_],
    fitted: Iterable[Placed],
    repairs: tuple[Repair, ...],
) -> Refit:
    """The new values, for layers as they were and as they are in the refitted model."""
    tensors = weight_tensors(model)
    updates, biases = [], []
    for layer, left, goal in fitted:
        assert left.bias is not None
        weight, bias = (
            numpy_helper.to_array(tensors[name]).copy() for name in (left.weight, left.bias)
        )
        updates.append(Update(layer.weight, weight))
        if layer.bias is not None:
            updates.append(Update(layer.bias, bias))
        elif goal.beta:
            keep = coupling.left(layer.output, layer.channel_axis, removed)
            scale = goal.scale if keep is None else goal.scale[keep]
            beta = numpy_helper.to_array(tensors[goal.beta])
            updates.append(Update(goal.beta, (beta + scale * bias).astype(beta.dtype)))
        else:
            biases.append(Bias(layer.node, bias))
    return Refit(tuple(updates), tuple(biases), repairs)
