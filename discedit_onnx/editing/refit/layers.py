"""Linear layers of a graph: what they multiply, with which constants, and where it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .patches import POINT, Window, unfold
from .stored import find_stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...graph.view import Node, View
    from .stored import Stored, Tensors

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that layers are made of."""


@dataclass(frozen=True)
class Layer:
    """A node that multiplies a computed tensor with a constant one and adds a bias.

    Attributes
    ----------
    node
        Name of the node's first output, which says which node it is.
    op
        Its operator: Conv, ConvTranspose, Gemm or MatMul.
    input
        The computed tensor.
    stored, stored_bias
        The constants; no bias where nothing is added.
    output
        The tensor after the bias.
    groups
        Of a convolution; else 1.
    window
        Of a convolution; else None.
    transposed
        Whether the weight is (inputs, outputs): a matrix product without transB, and a transposed
        convolution.
    """

    node: str
    op: str
    input: str
    stored: Stored
    stored_bias: Stored | None
    output: str
    groups: int = 1
    window: Window | None = None
    transposed: bool = False

    @property
    def weight(self) -> str:
        """The initializer of the weight."""
        return self.stored.tensor

    @property
    def bias(self) -> str | None:
        """The initializer of the bias."""
        return None if self.stored_bias is None else self.stored_bias.tensor

    @property
    def exact(self) -> bool:
        """Whether weight and bias can be given any numbers: they are not cast or quantised."""
        return self.stored.exact and (self.stored_bias is None or self.stored_bias.exact)

    @property
    def channel_axis(self) -> int:
        """Axis of input and output that carries the channels: 1 of maps, else the last."""
        return 1 if self.window is not None else -1

    @property
    def slid(self) -> Window:
        """The window, of one place where there is none."""
        return self.window or POINT

    def as_map(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """An input or output as (N, C, spatial axes...); all places of a sequence are one axis."""
        if self.window is not None:
            return x
        return np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), -1, 1)

    def positions(self, x: NDArray[np.floating]) -> int:
        """Places of one image at which the layer gives an output."""
        if self.window is None:
            return int(np.prod(x.shape[1:-1]))
        return int(np.prod(self.window.places(x.shape[2:])))

    def rows(
        self, x: NDArray[np.floating], at: NDArray[np.int64] | None = None
    ) -> NDArray[np.floating]:
        """What the weights are multiplied with, so that rows @ matrix + bias = targets.

        Parameters
        ----------
        x
            The layer's input.
        at
            Positions in each image, shape (N, P); all if left out.

        Returns
        -------
        ndarray, shape (groups, N * P, features)
        """
        if at is None:
            at = self._everywhere(x)
        if self.window is not None:
            return unfold(x, self.window, self.groups, at)
        flat = x.reshape(len(x), -1, x.shape[-1])
        return np.take_along_axis(flat, at[..., None], axis=1).reshape(1, -1, x.shape[-1])

    def targets(
        self, y: NDArray[np.floating], at: NDArray[np.int64] | None = None
    ) -> NDArray[np.floating]:
        """An output in the order of `rows`: (groups, N * P, outputs of a group)."""
        last = y if self.window is None else np.moveaxis(y, 1, -1)
        flat = last.reshape(len(y), -1, last.shape[-1])
        if at is not None:
            flat = np.take_along_axis(flat, at[..., None], axis=1)
        split = flat.reshape(-1, self.groups, last.shape[-1] // self.groups)
        return np.ascontiguousarray(split.transpose(1, 0, 2))

    def _everywhere(self, x: NDArray[np.floating]) -> NDArray[np.int64]:
        places = self.positions(x)
        return np.broadcast_to(np.arange(places), (len(x), places))

    def weight_in(self, tensors: Tensors) -> NDArray[np.floating]:
        """The weight as the node reads it, shape and all."""
        return self.stored.read(tensors)

    def bias_in(self, tensors: Tensors) -> NDArray[np.floating] | None:
        """The bias as it is read, if there is one."""
        return None if self.stored_bias is None else self.stored_bias.read(tensors)

    def matrix(self, weight: NDArray[np.floating]) -> NDArray[np.floating]:
        """The weight as (groups, features, outputs of a group), so that rows @ matrix = output."""
        if self.window is None:
            return weight[None] if self.transposed else weight.T[None]
        if self.op == "Conv":
            split = weight.reshape(self.groups, -1, int(np.prod(weight.shape[1:])))
            return split.transpose(0, 2, 1)
        flipped = np.flip(weight, axis=tuple(range(2, weight.ndim)))
        inputs, outputs = weight.shape[0] // self.groups, weight.shape[1]
        parts = flipped.reshape(self.groups, inputs, outputs, self.window.size)
        return parts.transpose(0, 1, 3, 2).reshape(self.groups, -1, outputs)

    def weight_of(
        self, matrix: NDArray[np.floating], shape: tuple[int, ...]
    ) -> NDArray[np.floating]:
        """The inverse of `matrix`, for a weight of this shape."""
        if self.window is None:
            plain: NDArray[np.floating] = matrix[0] if self.transposed else matrix[0].T
            return plain
        if self.op == "Conv":
            return matrix.transpose(0, 2, 1).reshape(shape)
        inputs, outputs = shape[0] // self.groups, shape[1]
        split = matrix.reshape(self.groups, inputs, self.window.size, outputs)
        weight = split.transpose(0, 1, 3, 2).reshape(shape)
        flipped: NDArray[np.floating] = np.flip(weight, axis=tuple(range(2, len(shape))))
        return flipped


def find_layers(view: View) -> tuple[Layer, ...]:
    """The linear layers of a graph whose weights belong to them alone, in topological order.

    Weights that several nodes read, that are computed, or that lie in subgraphs make no layer: they
    can't be given other values for one node's sake. What is stored by `find_stored` can, or nearly.
    """
    found = (_layer(view, node) for node in view.nodes if not node.domain)
    return tuple(layer for layer in found if layer is not None)


def exact_layers(view: View) -> tuple[Layer, ...]:
    """Those whose numbers are stored as they are read: what is stored is then what was meant."""
    return tuple(layer for layer in find_layers(view) if layer.exact)


def fixed_layers(view: View) -> tuple[Node, ...]:
    """Nodes that multiply with constants which are no layer's: they stay as they are in a refit."""
    known = {layer.node for layer in find_layers(view)}
    return tuple(
        node
        for node in view.nodes
        if node.op in LINEAR
        and not node.domain
        and node.outputs[0] not in known
        and node.inputs[0] in view.varying
        and node.inputs[1] not in view.varying
    )


def is_plain(node: Node) -> bool:
    """Whether a Gemm takes input, weight and bias as they are."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(node.attributes.get(key, value) == value for key, value in plain.items())


def _layer(view: View, node: Node) -> Layer | None:
    if node.op not in LINEAR or len(node.inputs) < 2 or node.inputs[0] not in view.varying:
        return None
    x, name = node.inputs[0], node.outputs[0]
    weight, bias = find_stored(view, node.inputs[1]), None
    if weight is None:
        return None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = find_stored(view, node.inputs[2])
        if bias is None:
            return None
    shape = view.initializers[weight.tensor].dims
    if node.op == "Gemm":
        if not is_plain(node):
            return None
        transposed = not node.attributes.get("transB", 0)
        if bias is not None and not _is_row(view, bias, shape[1 if transposed else 0]):
            return None
        return Layer(name, "Gemm", x, weight, bias, name, transposed=transposed)
    if node.op == "MatMul":
        if len(shape) != 2:
            return None
        bias, output = _added(view, node, shape[1])
        return Layer(name, "MatMul", x, weight, bias, output, transposed=True)
    window = _window(view, node, tuple(shape[2:]))
    if window is None:
        return None
    groups = int(node.attributes.get("group", 1))
    return Layer(name, node.op, x, weight, bias, name, groups, window, node.op == "ConvTranspose")


def _is_row(view: View, bias: Stored, width: int) -> bool:
    """Whether a constant has a number for each output; one for all may be added, or a matrix."""
    return list(view.initializers[bias.tensor].dims) in ([width], [1, width])


def _added(view: View, node: Node, width: int) -> tuple[Stored | None, str]:
    """The constant that is added to a matrix product and nothing else is done with, if any."""
    name = node.outputs[0]
    readers = view.consumers[name]
    if len(readers) == 1 and name not in view.outputs:
        reader, position = readers[0]
        if reader.op == "Add" and not reader.domain:
            other = find_stored(view, reader.inputs[1 - position])
            if other is not None and _is_row(view, other, width):
                return other, reader.outputs[0]
    return None, name


def _window(view: View, node: Node, kernel: tuple[int, ...]) -> Window | None:
    """How a convolution slides, or None where it depends on the size of the input."""
    axes = len(kernel)
    strides = tuple(node.attributes.get("strides", [1] * axes))
    dilations = tuple(node.attributes.get("dilations", [1] * axes))
    auto = node.attributes.get("auto_pad", "NOTSET")
    flat = [0] * 2 * axes if auto == "VALID" else list(node.attributes.get("pads", [0] * 2 * axes))
    pads = list(zip(flat[:axes], flat[axes:], strict=True))
    span = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        lengths = (view.shapes.get(node.inputs[0]) or (None,) * (axes + 2))[2:]
        if node.op == "ConvTranspose" or any(length is None for length in lengths):
            return None
        for i, length in enumerate(lengths):
            assert length is not None
            total = max(0, (-(-length // strides[i]) - 1) * strides[i] + span[i] + 1 - length)
            less, more = total // 2, total - total // 2
            pads[i] = (less, more) if auto == "SAME_UPPER" else (more, less)
    if node.op == "Conv":
        return Window(kernel, strides, dilations, tuple(pads), (1,) * axes)
    if node.attributes.get("output_shape"):
        return None
    extra = node.attributes.get("output_padding", [0] * axes)
    ends = zip(span, pads, extra, strict=True)
    around = tuple((s - before, s - after + e) for s, (before, after), e in ends)
    if min(min(pair) for pair in around) < 0:
        return None
    return Window(kernel, (1,) * axes, dilations, around, strides)
