"""Quantised graphs: integers with scales and zero points between the layers and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from .net import CLASSES, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx


class Quantised(Net):
    """A graph whose weights are integers behind DequantizeLinear."""

    def __init__(self, per_axis: bool = True, shift: int = 0, kind: str = "INT8") -> None:
        super().__init__(21, ir_version=10)
        self.per_axis, self.shift = per_axis, shift
        self.integers = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
        self.limit = 4 if "4" in kind else 100

    def weight(self, *shape: int, stem: str = "w") -> str:
        if len(shape) == 1:
            return super().weight(*shape, stem=stem)
        return self.stored(shape, 0)

    def stored(self, shape: tuple[int, ...], axis: int) -> str:
        """Integers, and the node that makes numbers of them."""
        values = self._random.integers(-self.limit, self.limit, shape) + self.shift
        scale = (self._random.random(shape[axis]) + 0.5) / self.limit / np.sqrt(np.prod(shape[1:]))
        zeros = np.full(shape[axis], self.shift)
        if not self.per_axis:
            scale, zeros = scale[0], zeros[0]
        inputs = [
            self.constant(values.astype(self.integers), "w"),
            self.constant(np.asarray(scale, np.float32), "scale"),
            self.constant(np.asarray(zeros, self.integers), "zero"),
        ]
        return self.op("DequantizeLinear", *inputs, axis=axis)

    def through(self, x: str) -> str:
        """QuantizeLinear and DequantizeLinear with one scale."""
        about = [self.number(0.02), self.constant(np.array(100, np.uint8))]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *about), *about)


@topology(0.9, per_axis=(False, True), shift=(0, 3))
def quantised_weights(per_axis: bool, shift: int) -> onnx.ModelProto:
    """Only the weights are integers."""
    net = Quantised(per_axis, shift)
    x = net.relu(net.conv(net.stem(8), 8, 8))
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.8, shift=(0, 3), width=(12, 80))
def small_weights_stored_as_integers(shift: int, width: int) -> onnx.ModelProto:
    """Cast and scaled, without DequantizeLinear: they are no shapes, however small they are."""
    net = Net()
    x = net.op("Flatten", net.op("GlobalAveragePool", net.stem(8)))
    values = np.random.default_rng(1).integers(-9, 9, (8, width)).astype(np.int8)
    weight = net.op("Cast", net.constant(values), to=TensorProto.FLOAT)
    if shift:
        zeros = net.constant(np.full(width, shift, np.int8))
        weight = net.op("Sub", weight, net.op("Cast", zeros, to=TensorProto.FLOAT))
    weight = net.op("Mul", weight, net.positive(width))
    hidden = net.relu(net.op("MatMul", x, weight))
    return net.model(net.gemm(hidden, width, CLASSES))


@topology(0.9, per_axis=(False, True))
def quantised_on_both_sides(per_axis: bool) -> onnx.ModelProto:
    """Activations are rounded between the layers, and there is a shortcut."""
    net = Quantised(per_axis)
    x = net.through(net.stem(8))
    y = net.through(net.relu(net.conv(x, 8, 8)))
    x = net.through(net.relu(net.op("Add", net.conv(y, 8, 8), x)))
    return net.head(net.through(net.relu(net.conv(x, 8, 8))), 8)


@topology(0.85)
def quantised_biases() -> onnx.ModelProto:
    """32-bit biases, as the tools of ONNX Runtime write them."""
    net = Quantised()
    x = net.input("N", 7)
    for inner, outer in ((7, 10), (10, 12), (12, CLASSES)):
        weight = net.stored((outer, inner), 0)
        scale = net.positive(outer)
        bias = net.constant(np.arange(outer, dtype=np.int32), "b")
        bias = net.op("DequantizeLinear", bias, scale, axis=0)
        x = net.op("Gemm", net.through(x), weight, bias, transB=1)
    return net.model(x)


@topology(0.85, kind=("UINT8", "INT4", "UINT4", "INT16"))
def quantised_types(kind: str) -> onnx.ModelProto:
    """Numbers of four bits are stored two to a byte."""
    net = Quantised(shift={"UINT8": 100, "UINT4": 5}.get(kind, 0), kind=kind)
    x = net.relu(net.gemm(net.input("N", 7), 7, 11))
    return net.model(net.gemm(net.relu(net.gemm(x, 11, 13)), 13, CLASSES))


@topology(0.9)
def quantised_matmul() -> onnx.ModelProto:
    """Weights with their columns scaled, and shifted: nothing in them can be set to zero."""
    net = Quantised(shift=2)
    x = net.input("N", 4, 7)
    for inner, outer in ((7, 10), (10, 12), (12, CLASSES)):
        x = net.relu(net.op("MatMul", net.through(x), net.stored((inner, outer), 1)))
    return net.model(x)


@topology(0.9)
def quantised_in_the_graph() -> onnx.ModelProto:
    """Weights in floating point that are rounded in each run."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    about = [net.positive(10), net.constant(np.zeros(10, np.int8))]
    weight = net.op("QuantizeLinear", net.weight(12, 10), *about, axis=1)
    weight = net.op("DequantizeLinear", weight, *about, axis=1)
    x = net.relu(net.op("Gemm", x, weight, transB=1))
    return net.model(net.gemm(x, 12, CLASSES))


@topology(0.3)
def quantised_in_blocks() -> onnx.ModelProto:
    """A scale for each four numbers of a row."""
    net = Net(21, ir_version=10)
    x = net.relu(net.gemm(net.input("N", 7), 7, 12))
    values = np.arange(8 * 12, dtype=np.int8).reshape(8, 12) - 40
    weight = net.constant(values, "w")
    weight = net.op("DequantizeLinear", weight, net.positive(8, 3), axis=1, block_size=4)
    x = net.relu(net.op("Gemm", x, weight, transB=1))
    x = net.relu(net.gemm(x, 8, 12))
    return net.model(net.gemm(x, 12, CLASSES))


@topology(0.4)
def quantised_in_each_run() -> onnx.ModelProto:
    """The scale is taken from all values: those in front are pinned."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    x = net.op("DequantizeLinear", *net.ops("DynamicQuantizeLinear", x, outputs=3))
    x = net.relu(net.gemm(net.relu(net.gemm(x, 10, 12)), 12, 12))
    return net.model(net.gemm(x, 12, CLASSES))
