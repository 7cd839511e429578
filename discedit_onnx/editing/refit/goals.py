"""What a refitted layer should give: the dense network's values where they are next needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .stored import owned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...graph.view import Node, View
    from .layers import Layer


@dataclass(frozen=True, eq=False)
class Goal:
    """How a layer's output is used, up to the next nonlinearity.

    With y the layer's output, ``scale * y + shift + other`` is what `tensor` holds; the activation
    behind it is flat below `low` and above `high`.

    Attributes
    ----------
    tensor
        The tensor whose values in the dense network are aimed at.
    other
        What is added to the layer's output; empty if nothing is. On a residual spine the branch
        that adds in thus corrects what the spine lost.
    scale, shift
        Of a batch normalisation behind the layer, shape (channels,), or 1 and 0.
    beta
        The constant of that normalisation which takes up a bias; empty if there is none.
    low, high
        Ends of the range in which the activation tells values apart.
    """

    tensor: str
    other: str
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    low: float
    high: float
    beta: str = ""


def is_dead(scale: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which channels a normalisation multiplies with nearly nothing: they can't be steered."""
    size = np.abs(scale)
    return np.asarray(size <= 1e-6 * size.max(initial=0))


def find_goal(view: View, layer: Layer) -> Goal:
    """Follow a layer's output through normalisation and addition."""
    name, one, zero = layer.output, np.ones(1), np.zeros(1)
    scale, shift, beta = one, zero, ""
    node = _only_reader(view, name)
    if node is not None and node.op == "BatchNormalization" and node.inputs[0] == name:
        found = _affine(view, node)
        if found is not None:
            (scale, shift), name = found, node.outputs[0]
            beta = node.inputs[2] if owned(view, node.inputs[2]) else ""
            node = _only_reader(view, name)
    other = ""
    if node is not None and node.op == "Add":
        addend = node.inputs[1 - node.inputs.index(name)]
        if _is_earlier(view, addend, layer) and view.shapes.get(addend) == view.shapes.get(name):
            other, name = addend, node.outputs[0]
    low, high = _flat(view, name)
    return Goal(name, other, scale, shift, low, high, beta)


def _only_reader(view: View, name: str) -> Node | None:
    readers = view.consumers[name]
    if len(readers) == 1 and name not in view.outputs and not readers[0][0].domain:
        return readers[0][0]
    return None


def _affine(view: View, node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Scale and shift of a batch normalisation, or None if it takes statistics of the batch."""
    if node.attributes.get("training_mode", 0) or len([o for o in node.outputs if o]) > 1:
        return None
    values = [view.constant(name) for name in node.inputs[1:5]]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, var = (np.asarray(value, dtype=np.float64) for value in values)
    scale = gamma / np.sqrt(var + node.attributes.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def _is_earlier(view: View, name: str, layer: Layer) -> bool:
    """Whether a computed tensor is there before the layer has run."""
    if name not in view.varying:
        return False
    made = view.producer.get(name)
    return made is None or made.index < view.producer[layer.node].index


def _flat(view: View, name: str) -> tuple[float, float]:
    """The range in which all that reads a tensor tells its values apart."""
    ranges = [_range(view, node) for node, _ in view.consumers[name]]
    if not ranges or name in view.outputs:
        return -np.inf, np.inf
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _range(view: View, node: Node) -> tuple[float, float]:
    if node.domain:
        return -np.inf, np.inf
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op == "Clip":
        ends = [node.attributes.get("min"), node.attributes.get("max")]
        for position, input_name in enumerate(node.inputs[1:3]):
            ends[position] = view.constant(input_name) if input_name else None
        low, high = (None if end is None else float(np.asarray(end).reshape(-1)[0]) for end in ends)
        return -np.inf if low is None else low, np.inf if high is None else high
    return -np.inf, np.inf
