"""Two models side by side: which layers have other channels, and which are in one only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import numpy_helper

from .graph.view import View, parameter_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .graph.view import Node
    from .model import Model

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """Channels of one layer.

    Attributes
    ----------
    name, op
        Its node's name, or that of its weight where nodes have none; and its operator.
    weight
        The constant that it multiplies with.
    inputs, outputs
        Channels that it takes and gives.
    """

    name: str
    op: str
    weight: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Pair:
    """A layer of two models.

    Attributes
    ----------
    name
        What it is known by in both.
    a, b
        The layer in each model; None where it is missing.
    changed
        Whether it has other values, though the same channels.
    """

    name: str
    a: Layer | None
    b: Layer | None
    changed: bool

    @property
    def same(self) -> bool:
        """Whether nothing of it differs."""
        return self.a == self.b and not self.changed


def compare_layers(a: Model, b: Model) -> tuple[Pair, ...]:
    """Layers of two models, matched by the names of weight and node, of either.

    Parameters
    ----------
    a, b
        Two models; pruning leaves the names as they are.

    Returns
    -------
    tuple of Pair
        In the order of `a`, and then what only `b` has.
    """
    views = View(a.proto), View(b.proto)
    ours, theirs = (_layers(view) for view in views)
    found = _matched(ours, theirs)
    pairs = []
    for layer, other in zip(ours, found, strict=True):
        changed = other is not None and layer == other and _values_differ(*views, layer)
        pairs.append(Pair(layer.name, layer, other, changed))
    met = {id(layer) for layer in found}
    alone = [Pair(layer.name, None, layer, False) for layer in theirs if id(layer) not in met]
    return (*pairs, *alone)


def _matched(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[Layer | None]:
    """The layer of the other model for each of ours; none of them twice."""
    found: list[Layer | None] = [None] * len(ours)
    left = list(theirs)
    for key in (lambda x: (x.weight, x.name), lambda x: x.weight, lambda x: x.name):
        for i, layer in enumerate(ours):
            like = [other for other in left if key(other) == key(layer)]
            if found[i] is None and like:
                found[i] = like[0]
                left = [other for other in left if other is not like[0]]
    return found


def _layers(view: View) -> list[Layer]:
    learned = parameter_tensors(view.proto)
    found = []
    for node in view.nodes:
        weight = _weight(view, node)
        if weight is not None and weight in learned:
            dims = list(view.shapes.get(node.inputs[1]) or learned[weight].dims)
            inputs, outputs = _channels(node, [length or 0 for length in dims])
            found.append(Layer(node.name or weight, node.op, weight, inputs, outputs))
    return found


def _weight(view: View, node: Node) -> str | None:
    """The constant that a layer's second input comes from."""
    if node.domain or node.op not in LAYERS or len(node.inputs) < 2:
        return None
    return view.origin(node.inputs[1])


def _channels(node: Node, dims: list[int]) -> tuple[int, int]:
    groups = int(node.attributes.get("group", 1))
    if node.op == "Conv":
        return dims[1] * groups, dims[0]
    if node.op == "ConvTranspose":
        return dims[0], dims[1] * groups
    rows, columns = (dims[-2], dims[-1]) if len(dims) > 1 else (dims[0], 1)
    return (columns, rows) if node.attributes.get("transB", 0) else (rows, columns)


def _values_differ(a: View, b: View, layer: Layer) -> bool:
    ours, theirs = _values(a, layer), _values(b, layer)
    return len(ours) != len(theirs) or any(
        x.shape != y.shape or x.tobytes() != y.tobytes() for x, y in zip(ours, theirs, strict=True)
    )


def _values(view: View, layer: Layer) -> list[NDArray[Any]]:
    """Weight and bias of a layer, and the constants of what is added or normalised behind it."""
    node = next(node for node in view.nodes if _weight(view, node) == layer.weight)
    names = list(node.inputs[1:])
    while len(readers := view.consumers[node.outputs[0]]) == 1:
        node = readers[0][0]
        if node.domain or node.op not in ("Add", "BatchNormalization"):
            break
        names += node.inputs
    origins = [view.origin(name) for name in names if name]
    return [numpy_helper.to_array(view.initializers[name]) for name in origins if name]
