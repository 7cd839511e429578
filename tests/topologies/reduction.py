"""Reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .net import CLASSES, SIZE, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx


@topology(
    0.85, opset=(13, 18), keepdims=(0, 1), kind=("ReduceMean", "ReduceSum", "ReduceLogSumExp")
)
def reduce_positions(opset: int, keepdims: int, kind: str) -> onnx.ModelProto:
    net = Net(opset)
    x = _reduce(net, kind, net.stem(8), [2, -1], keepdims)
    if keepdims:
        x = net.op("Flatten", x)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.75, opset=(13, 18))
def reduce_channels(opset: int) -> onnx.ModelProto:
    """Channels that are averaged with each other stay: there is nothing to fold them into."""
    net = Net(opset)
    x = net.stem(8)
    gate = net.op("Sigmoid", _reduce(net, "ReduceMean", x, [1], 1))
    x = net.op("Mul", net.conv(x, 8, 8), gate)
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.6)
def reduce_everything() -> onnx.ModelProto:
    net = Net()
    x = net.stem(8)
    scale = net.op("ReduceMax", x)
    return net.head(net.relu(net.conv(net.op("Div", x, scale), 8, 8)), 8)


@topology(0.9)
def reduce_nothing() -> onnx.ModelProto:
    """No axes, and told to do nothing then."""
    net = Net(18)
    x = net.op("ReduceSumSquare", net.stem(8), "", noop_with_empty_axes=1)
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9, axis=(2, [-1]))
def cumulative_sum(axis: int | list[int]) -> onnx.ModelProto:
    """The axis is a number; ONNX Runtime takes a list of one as well."""
    net = Net()
    x = net.op("CumSum", net.stem(8), net.constant(np.array(axis)))
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.9, keepdims=(0, 1))
def arg_max(keepdims: int) -> onnx.ModelProto:
    """The class itself as a second output: it is counted over the logits."""
    net = Net()
    pooled = net.op("Flatten", net.op("GlobalMaxPool", net.conv(net.stem(8), 8, 8)))
    logits = net.gemm(pooled, 8, CLASSES)
    return net.model(logits, net.op("ArgMax", logits, axis=-1, keepdims=keepdims))


@topology(0.8)
def arg_max_over_hidden_channels() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.stem(8), 8, 8)
    best = net.op("Cast", net.op("ArgMax", x, axis=1), to=1)
    return net.head(net.op("Mul", x, best), 8)


@topology(0.8)
def arg_max_over_positions() -> onnx.ModelProto:
    """One position for each channel."""
    net = Net()
    x = net.conv(net.input("N", 3, SIZE), 3, 8, rank=1)
    best = net.op("Cast", net.op("ArgMax", x, axis=2, keepdims=0), to=1)
    return net.model(net.gemm(best, 8, CLASSES))


def _reduce(net: Net, kind: str, x: str, axes: list[int], keepdims: int) -> str:
    """With its axes where this opset has them."""
    if net.opset >= 18 or kind == "ReduceSum":
        return net.op(kind, x, net.ints(*axes), keepdims=keepdims)
    return net.op(kind, x, axes=axes, keepdims=keepdims)
