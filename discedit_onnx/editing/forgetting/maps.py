"""Linear maps in front of a layer and behind it, folded into its weights.

The graph does not change. That the fold is right is seen from a graph in which the maps are nodes
of their own; see `explicit`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...errors import UsageError
from ...graph.view import weight_tensors
from ..plan import Bias, Update
from ..surgery import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ...graph.view import View
    from ..refit.layers import Layer


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """What is put in front of a layer and behind it: ``((x @ before) W + b) @ after + shift``.

    Attributes
    ----------
    layer
        A layer of one group.
    before : float64 (C, C) or (F, F), or None
        Acts on the input's channels, the same at every position; or on all that a convolution's
        kernel sees, in the order of `Layer.rows`.
    places : int64 (P, C), or None
        The features, in that order, which are the channels at each place that `before` acts on.
        None where those of a channel lie side by side.
    after : float64 (K, K), or None
        Acts on the output's channels.
    shift : float64 (K,)
        What is added to the output.
    """

    layer: Layer
    before: NDArray[np.float64] | None
    after: NDArray[np.float64] | None
    shift: NDArray[np.float64]
    places: NDArray[np.int64] | None = None

    def read(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights (F, K) that do on the input what these do behind `before`."""
        if self.before is None:
            return matrix
        places = at_places(self.before, self.places, len(matrix))
        found = np.empty_like(matrix)
        found[places] = self.before @ matrix[places]
        return found


def matrix_of(view: View, layer: Layer) -> NDArray[np.float64]:
    """The weights of a layer of one group, float64 (F, K), so that rows @ matrix is its product."""
    weight = numpy_helper.to_array(view.initializers[layer.weight])
    return np.asarray(layer.matrix(weight.astype(np.float64))[0])


def bias_of(view: View, layer: Layer, outputs: int) -> NDArray[np.float64]:
    """The bias of a layer, float64 (K,); zeros where it has none."""
    if layer.bias is None:
        return np.zeros(outputs)
    return numpy_helper.to_array(view.initializers[layer.bias]).astype(np.float64).reshape(-1)


def at_places(
    values: NDArray[np.float64], places: NDArray[np.int64] | None, features: int
) -> NDArray[np.int64]:
    """Where values of channels, (C,) or (C, C), stand among the features: (P, C)."""
    if places is not None:
        return places
    return np.arange(features).reshape(len(values), -1).T


def at_input(
    view: View,
    layer: Layer,
    before: NDArray[np.float64],
    offset: NDArray[np.float64],
    places: NDArray[np.int64] | None = None,
) -> LayerEdit:
    """The edit that makes ``x @ before + offset`` of a layer's input.

    Where a convolution pads with zeros, the offset counts as if it had been padded too: a bias
    can't tell the border from the rest.

    Parameters
    ----------
    view
        Of the model.
    layer
        A layer of one group.
    before, offset
        Shapes (C, C) and (C,), or (F, F) and (F,); see `LayerEdit`.
    places
        As there.
    """
    shift = product(view, layer, offset, places)
    return LayerEdit(layer, before, None, shift, places)


def product(
    view: View, layer: Layer, values: NDArray[np.float64], places: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """What a layer makes, without its bias, of channels (C,) that are the same at every place."""
    matrix = matrix_of(view, layer)
    summed: NDArray[np.float64] = matrix[at_places(values, places, len(matrix))].sum(axis=0)
    return values @ summed


def fold(view: View, edits: Iterable[LayerEdit]) -> tuple[tuple[Update, ...], tuple[Bias, ...]]:
    """New weights and biases; layers that have no bias get one.

    Raises
    ------
    UsageError
        If they are too large for their type.
    """
    updates, biases = [], []
    for edit in edits:
        layer = edit.layer
        tensor = view.initializers[layer.weight]
        shape = tuple(tensor.dims)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        matrix = matrix_of(view, layer)
        bias = bias_of(view, layer, matrix.shape[1])
        matrix = edit.read(matrix)
        if edit.after is not None:
            matrix, bias = matrix @ edit.after, bias @ edit.after
        bias = bias + edit.shift
        weight = layer.weight_of(matrix[None], shape)
        with np.errstate(over="ignore", invalid="ignore"):
            weight, bias = (np.ascontiguousarray(v.astype(dtype)) for v in (weight, bias))
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UsageError(f"new weights for {layer.node!r} overflow: use a smaller strength")
        updates.append(Update(layer.weight, weight))
        if layer.bias is not None:
            old = numpy_helper.to_array(view.initializers[layer.bias])
            updates.append(Update(layer.bias, bias.reshape(old.shape)))
        elif bias.any():
            biases.append(Bias(layer.node, bias))
    return tuple(updates), tuple(biases)


def explicit(proto: onnx.ModelProto, edits: Iterable[LayerEdit]) -> onnx.ModelProto:
    """The model with the maps as nodes of their own, around layers that keep their weights.

    Parameters
    ----------
    proto
        The original; not changed.
    edits
        What was folded.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    _free_constants(model.graph)
    place = {name: i for i, node in enumerate(model.graph.node) for name in node.output[:1]}
    ahead: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    behind: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for edit in edits:
        layer, made = edit.layer, _Nodes(model, edit.layer)
        first, last = place[layer.node], place[layer.output]
        if edit.before is not None:
            _before(made, model.graph.node[first], edit.before, edit.places)
        ahead[first], made.nodes = made.nodes, []
        name = model.graph.node[last].output[0] = f"{layer.output}.kept"
        if edit.after is not None:
            name = made.product(name, edit.after, f"{layer.output}.mapped")
        made.sum(name, edit.shift, layer.output)
        behind[last] = made.nodes
    nodes = [n for i, node in enumerate(model.graph.node) for n in (*ahead[i], node, *behind[i])]
    # Extending from itself would copy after clearing, so the nodes are taken out first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    return model


def _free_constants(graph: onnx.GraphProto) -> None:
    """Leave out inputs that say the shape of an initializer: some get another one."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) < len(graph.input):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
        del graph.input[:]
        graph.input.extend(copies)


class _Nodes:
    """Nodes that act on the channels of a layer's input or output."""

    def __init__(self, model: onnx.ModelProto, layer: Layer) -> None:
        self.graph = model.graph
        self.layer = layer
        self.axes = 0 if layer.window is None else len(layer.window.kernel)
        self.tensor = weight_tensors(model)[layer.weight]
        self.weight = numpy_helper.to_array(self.tensor)
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, values: NDArray[np.float64], name: str) -> str:
        self.graph.initializer.append(
            numpy_helper.from_array(values.astype(self.weight.dtype), name)
        )
        return name

    def product(self, x: str, matrix: NDArray[np.float64], result: str) -> str:
        """Channels times a matrix, at every position."""
        if self.axes:
            kernel = matrix.T.reshape(*matrix.T.shape, *[1] * self.axes)
            self.add("Conv", [x, self.constant(kernel, f"{result}.map")], result)
        else:
            self.add("MatMul", [x, self.constant(matrix, f"{result}.map")], result)
        return result

    def at_places(
        self, x: str, matrix: NDArray[np.float64], places: NDArray[np.int64], stem: str
    ) -> str:
        """Channels times a matrix, where those of a place are told among the features."""
        if len(places) == 1 and (places[0] == np.arange(len(matrix))).all():
            return self.product(x, matrix, f"{stem}.seen")
        back = np.argsort(places.reshape(-1))
        numbers = {"order": places.reshape(-1), "rows": [-1, len(matrix)], "back": back}
        for name, values in numbers.items():
            self.graph.initializer.append(
                numpy_helper.from_array(np.asarray(values, np.int64), f"{stem}.{name}")
            )
        self.add("Gather", [x, f"{stem}.order"], f"{stem}.ordered", axis=-1)
        self.add("Reshape", [f"{stem}.ordered", f"{stem}.rows"], f"{stem}.channels")
        self.product(f"{stem}.channels", matrix, f"{stem}.seen_rows")
        self.add("Shape", [x], f"{stem}.shape")
        self.add("Reshape", [f"{stem}.seen_rows", f"{stem}.shape"], f"{stem}.whole")
        self.add("Gather", [f"{stem}.whole", f"{stem}.back"], f"{stem}.seen", axis=-1)
        return f"{stem}.seen"

    def sum(self, x: str, row: NDArray[np.float64], result: str) -> None:
        row = row.reshape(-1, *[1] * self.axes)
        self.add("Add", [x, self.constant(row, f"{result}.shift")], result)

    def add(self, op: str, inputs: list[str], result: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [result], **attributes))


def _before(
    made: _Nodes,
    node: onnx.NodeProto,
    before: NDArray[np.float64],
    places: NDArray[np.int64] | None,
) -> None:
    """Put a map in front of a node: of its channels, or of the patches that its kernel sees."""
    weight, x, stem = made.weight, node.input[0], node.output[0]
    if not made.axes:
        features = weight.shape[0] if made.layer.transposed else weight.shape[1]
        node.input[0] = made.at_places(x, before, at_places(before, places, features), stem)
        return
    channels, size = weight.shape[1], int(np.prod(weight.shape[2:]))
    read = at_places(before, places, channels * size)
    if len(read) >= size and len(before) <= channels:  # the same at each position of the kernel
        wide = np.zeros((channels, channels))
        for place in read[read[:, 0] % size == 0] // size:
            wide[np.ix_(place, place)] = before
        node.input[0] = made.product(x, wide, f"{stem}.seen")
        return
    # The patches become channels, so that the layer's own product is one of single positions.
    unit = np.eye(channels * size).reshape(channels * size, channels, *weight.shape[2:])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    patches = [x, made.constant(unit, f"{stem}.unit")]
    made.add("Conv", patches, f"{stem}.patches", **attributes)
    seen = made.product(f"{stem}.patches", before, f"{stem}.seen")
    # The weight is this node's alone: it is given another shape, not another name.
    store(made.tensor, weight.reshape(len(weight), -1, *[1] * made.axes))
    node.input[0] = seen
    del node.attribute[:]
