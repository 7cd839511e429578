"""Matrix products, and the ways that their weights are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .net import CLASSES, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx


@topology(0.9, trans_a=(0, 1), trans_b=(0, 1), bias=("row", "matrix", "scalar", "none"))
def gemm(trans_a: int, trans_b: int, bias: str) -> onnx.ModelProto:
    net = Net()
    shapes = {"row": (12,), "matrix": (1, 12), "scalar": ()}
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    if trans_a:
        x = net.op("Transpose", x, perm=[1, 0])
    weight = net.weight(12, 10) if trans_b else net.weight(10, 12)
    extra = [] if bias == "none" else [net.weight(*shapes[bias])]
    x = net.op("Gemm", x, weight, *extra, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)
    return net.model(net.gemm(net.op("Exp", x), 12, 5))


@topology(0.9)
def gemm_with_a_weight_first() -> onnx.ModelProto:
    """Y = W X, rows are the components; the bias is a column."""
    net = Net()
    x = net.input(7, 3)
    x = net.relu(net.op("Gemm", net.weight(10, 7), x, net.weight(10, 1)))
    x = net.relu(net.op("Gemm", net.weight(10, 12), x, transA=1))
    return net.model(net.op("Gemm", net.weight(5, 12), x))


@topology(0.95, opset=(7, 13))
def matmul(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.input("N", 4, 7)
    x = net.op("Add", net.op("MatMul", x, net.weight(7, 16)), net.weight(16))
    x = net.op("Add", net.weight(9), net.op("MatMul", net.relu(x), net.weight(16, 9)))
    return net.model(net.op("MatMul", net.op("Tanh", x), net.weight(9, 5)))


@topology(0.9)
def matmul_with_a_weight_first() -> onnx.ModelProto:
    """Y = W X over the last but one axis, as token mixing does."""
    net = Net()
    x = net.input("N", 7, 4)
    x = net.op("Add", net.op("MatMul", net.weight(16, 7), x), net.weight(16, 1))
    return net.model(net.op("MatMul", net.weight(1, 5, 16), net.relu(x)))


@topology(0.8)
def matmul_of_two_computed() -> onnx.ModelProto:
    """Query times key: their inner dimensions go together, and nothing is left of them."""
    net = Net()
    x = net.input("N", 4, 8)
    query = net.op("Add", net.op("MatMul", x, net.weight(8, 6)), net.weight(6))
    key = net.op("Transpose", net.op("MatMul", x, net.weight(8, 6)), perm=[0, 2, 1])
    attention = net.op("Softmax", net.op("MatMul", query, key), axis=-1)
    value = net.op("MatMul", attention, net.op("MatMul", x, net.weight(8, 6)))
    return net.model(net.op("MatMul", value, net.weight(6, 5)))


@topology(0.0)
def matmul_with_a_vector() -> onnx.ModelProto:
    """Pinned: vectors have no rule."""
    net = Net()
    x = net.op("MatMul", net.relu(net.gemm(net.input("N", 7), 7, 10)), net.weight(10))
    return net.model(x)


@topology(0.65, kind=("Transpose", "Identity", "Cast", "Reshape", "Unsqueeze", "Mul"))
def weight_behind(kind: str) -> onnx.ModelProto:
    """The weight is computed from a constant."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    if kind == "Transpose":
        weight = net.op("Transpose", net.weight(12, 10), perm=[1, 0])
    elif kind == "Identity":
        weight = net.op("Identity", net.weight(10, 12))
    elif kind == "Cast":
        import numpy as np

        half = np.random.default_rng(1).standard_normal((10, 12)).astype(np.float16)
        weight = net.op("Cast", net.constant(half), to=1)
    elif kind == "Reshape":
        weight = net.op("Reshape", net.weight(10, 3, 4), net.ints(10, 12))
    elif kind == "Unsqueeze":
        weight = net.op("Squeeze", net.weight(10, 1, 12), net.ints(1))
    else:
        weight = net.op("Mul", net.weight(10, 12), net.positive(10, 1))
    x = net.relu(net.op("MatMul", x, weight))
    return net.model(net.gemm(x, 12, 5))


@topology(0.9)
def weight_shifted() -> onnx.ModelProto:
    """A weight that is not zero where the constants that it is made of are."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    weight = net.op("Exp", net.op("Add", net.weight(10, 12), net.weight(12)))
    return net.model(net.gemm(net.op("Tanh", net.op("MatMul", x, weight)), 12, 5))


@topology(0.9)
def weight_norm() -> onnx.ModelProto:
    """A convolution's kernel divided by its filters' norms, in the graph."""
    net = Net()
    kernel = net.weight(8, 3, 3, 3)
    norm = net.op("ReduceL2", kernel, axes=[1, 2, 3])
    kernel = net.op("Mul", net.op("Div", kernel, norm), net.positive(8, 1, 1, 1))
    x = net.relu(net.op("Conv", net.input(), kernel))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.55)
def gram_matrix() -> onnx.ModelProto:
    """A tensor times its own transpose."""
    net = Net()
    x = net.op("MatMul", net.input("N", 4, 8), net.weight(8, 6))
    x = net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1]))
    return net.model(net.op("MatMul", x, net.weight(4, CLASSES)))


@topology(0.45)
def attention() -> onnx.ModelProto:
    """Two heads of four: a head goes as a whole, its inner dimensions stay."""
    net = Net()
    x = net.input("N", 6, 8)
    query, key, value = (
        _heads(net, x, order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.op("Softmax", net.op("MatMul", query, key), axis=-1)
    x = net.op("Transpose", net.op("MatMul", scores, value), perm=[0, 2, 1, 3])
    x = net.op("Reshape", x, net.ints(0, 0, 8))
    return net.model(
        net.op("Add", net.op("MatMul", x, net.weight(8, CLASSES)), net.weight(CLASSES))
    )


@topology(0.6)
def cross_covariance_attention() -> onnx.ModelProto:
    """XCiT: dimensions attend to dimensions, so that nothing inside a head can be cut."""
    net = Net()
    x = net.input("N", 6, 8)
    query, key, value = (
        _heads(net, x, order) for order in ([0, 2, 3, 1], [0, 2, 1, 3], [0, 2, 3, 1])
    )
    scores = net.op("Softmax", net.op("MatMul", query, key), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, value), perm=[0, 3, 1, 2])
    joined = net.op("Reshape", mixed, net.ints(0, 0, 8))
    x = net.op("ReduceMean", net.op("MatMul", joined, net.weight(8, 8)), axes=[1], keepdims=0)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.9)
def constant_queries() -> onnx.ModelProto:
    """Learned queries: rows of a constant that meet the input only in a product."""
    net = Net()
    x = net.input("N", 6, 8)
    keys = net.op("Transpose", net.op("MatMul", x, net.weight(8, 7)), perm=[0, 2, 1])
    scores = net.op("Softmax", net.op("MatMul", net.weight(9, 7), keys), axis=-1)
    x = net.op("Transpose", net.op("MatMul", scores, x), perm=[0, 2, 1])
    return net.model(net.op("MatMul", x, net.weight(9, CLASSES)))


def _heads(net: Net, x: str, order: list[int]) -> str:
    x = net.op("Add", net.op("MatMul", x, net.weight(8, 8)), net.weight(8))
    return net.op("Transpose", net.op("Reshape", x, net.ints(0, 0, 2, 4)), perm=order)
