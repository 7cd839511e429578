"""Elementwise operators, with what is broadcast into them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .net import Net
from .registry import topology


@topology(
    0.9,
    kind=("Sigmoid", "Exp", "Softplus", "HardSigmoid", "Cos", "Elu", "LeakyRelu", "Erf", "Neg"),
)
def unary(kind: str) -> onnx.ModelProto:
    """f(0) is not zero for many: a removed component is not a silent one."""
    net = Net()
    x = net.op(kind, net.conv(net.input(), 3, 8))
    return net.head(net.op(kind, net.conv(x, 8, 8)), 8)


@topology(0.9, opset=(20, 22))
def unary_of_newer_opsets(opset: int) -> onnx.ModelProto:
    net = Net(opset, ir_version=10)
    x = net.op("Gelu", net.conv(net.input(), 3, 8), approximate="tanh")
    return net.head(net.op("Mish", net.op("HardSwish", net.conv(x, 8, 8))), 8)


@topology(
    0.9,
    kind=("Add", "Mul", "Sub", "Div", "Max", "Min"),
    shape=((8, 1, 1), (1, 8, 1, 1), (), (1,)),
)
def binary_with_a_constant(kind: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    net = Net()
    x = net.op(kind, net.positive(*shape), net.op("Exp", net.conv(net.input(), 3, 8)))
    x = net.op(kind, net.conv(x, 8, 8), net.positive(*shape))
    return net.head(x, 8)


@topology(0.9)
def binary_with_a_map() -> onnx.ModelProto:
    """A constant with channels and positions, and one with positions only."""
    net = Net()
    x = net.op("Add", net.stem(8), net.weight(8, 6, 6))
    x = net.op("Mul", net.weight(6), net.conv(x, 8, 8))
    return net.head(net.relu(x), 8)


@topology(0.8)
def binary_outer() -> onnx.ModelProto:
    """(N, 8, 1) with (N, 1, 6): each length of one meets a length that it is repeated along."""
    net = Net()
    x = net.input("N", 7)
    column = net.op("Unsqueeze", net.relu(net.gemm(x, 7, 8)), net.ints(2))
    row = net.op("Unsqueeze", net.relu(net.gemm(x, 7, 6)), net.ints(1))
    x = net.op("MatMul", net.op("Mul", column, row), net.weight(6, 1))
    return net.model(net.gemm(net.op("Flatten", x), 8, 5))


@topology(0.95)
def comparison_and_where() -> onnx.ModelProto:
    """Booleans carry components too; the constant condition is one for each channel."""
    net = Net()
    x = net.conv(net.input(), 3, 8)
    x = net.op("Where", net.op("Greater", x, net.weight(8, 1, 1)), x, net.positive(8, 1, 1))
    flags = net.constant(np.array([True, False] * 4).reshape(8, 1, 1))
    x = net.conv(x, 8, 8)
    both = net.op("And", flags, net.op("Less", x, net.number(0.5)))
    x = net.op("Where", both, net.number(0.25), x)
    x = net.conv(net.op("Mul", x, net.op("Cast", net.op("Not", both), to=1)), 8, 8)
    return net.head(x, 8)


@topology(0.95, opset=(8, 13))
def variadic(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.stem(6)
    branches = [net.conv(x, 6, 8) for _ in range(3)]
    x = net.op("Max", *branches, net.weight(8, 1, 1))
    x = net.op("Sum", x, net.op("Min", *branches), net.op("Mean", branches[0], branches[1]))
    return net.head(net.op("Sum", x), 8)


@topology(0.9, slope=((8, 1, 1), (1, 1, 1), (1,)), opset=(7, 16))
def prelu(slope: tuple[int, ...], opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.op("PRelu", net.conv(net.input(), 3, 8), net.weight(*slope))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9)
def prelu_with_one_slope_for_two() -> onnx.ModelProto:
    """A shared slope ties two layers."""
    net = Net()
    slope = net.weight(8, 1, 1)
    x = net.op("PRelu", net.conv(net.input(), 3, 8), slope)
    return net.head(net.op("PRelu", net.conv(x, 8, 8), slope), 8)


@topology(0.9, opset=(7, 11, 13))
def clip(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.conv(net.input(), 3, 8)
    if opset < 11:
        x = net.op("Clip", x, min=0.1, max=6.0)
    else:
        x = net.op("Clip", x, net.number(0.1), net.number(6.0))
        x = net.op("Clip", x, "", net.number(5.0))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9, opset=(7, 12, 22))
def dropout_identity_cast(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.op("Identity", net.stem(8))
    x = net.op("Cast", net.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    x = net.ops("Dropout", net.conv(x, 8, 8), outputs=1)[0]
    return net.head(x, 8)


@topology(0.9, ratio=(0.0, 0.5))
def dropout_with_inputs(ratio: float) -> onnx.ModelProto:
    """In training nothing is dropped at a ratio of 0; out of it, nothing at any."""
    net = Net()
    training = net.constant(np.array(ratio == 0))
    x = net.op("Dropout", net.conv(net.stem(8), 8, 8), net.number(ratio), training)
    return net.head(net.relu(x), 8)


@topology(0.6, runnable=False)
def dropout_in_training() -> onnx.ModelProto:
    net = Net()
    x = net.stem(8)
    kept = net.op("Dropout", net.conv(x, 8, 8), "", net.constant(np.array(True)))
    return net.head(net.conv(net.relu(net.conv(kept, 8, 10)), 10, 8), 8)


@topology(0.9)
def cast_like() -> onnx.ModelProto:
    net = Net(19)
    x = net.op("CastLike", net.stem(8), net.constant(np.zeros(1)))
    x = net.op("CastLike", x, net.number(0))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.6, opset=(11, 13), kind=("Softmax", "LogSoftmax"))
def softmax(opset: int, kind: str) -> onnx.ModelProto:
    """Over channels: before opset 13 over all axes that follow as well."""
    net = Net(opset)
    x = net.op(kind, net.stem(8), axis=1)
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.9, opset=(11, 13), kind=("Softmax", "LogSoftmax"), axis=(2, -1))
def softmax_over_positions(opset: int, kind: str, axis: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.op(kind, net.stem(8), axis=axis)
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.85)
def softmax_gate() -> onnx.ModelProto:
    """Attention over positions: the map has one channel, which all others meet."""
    net = Net()
    x = net.stem(8)
    gate = net.op("Softmax", net.op("Flatten", net.conv(x, 8, 1, kernel=1)), axis=1)
    gate = net.op("Reshape", gate, net.ints(0, 1, 6, 6))
    return net.head(net.op("Mul", x, gate), 8)
