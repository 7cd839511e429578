"""Graphs as Keras (through tf2onnx), Paddle and JAX write them, which is not how PyTorch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from .net import CLASSES, SIZE, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

TOKENS, WIDTH, HEADS, HEAD = 6, 8, 4, 3


@topology(0.8, form=("einsum", "matmul"), batch=("N", 2))
def keras_attention(form: str, batch: int | str) -> onnx.ModelProto:
    """MultiHeadAttention: weights of three axes, (width, heads, size) and back, and a dense MLP."""
    net = Net()
    x = net.input(batch, TOKENS, WIDTH)
    make = {"einsum": _attention_of_einsums, "matmul": _attention_of_products}[form]
    x = net.op("Add", make(net, x), x)
    hidden = net.op("Add", net.op("MatMul", x, net.weight(WIDTH, 12)), net.weight(12))
    hidden = net.op("Mul", hidden, net.op("Sigmoid", hidden))
    x = net.op("Add", net.op("MatMul", hidden, net.weight(12, WIDTH)), net.weight(WIDTH))
    x = net.op("ReduceMean", x, axes=[1], keepdims=0)
    return net.model(
        net.op("Add", net.op("MatMul", x, net.weight(WIDTH, CLASSES)), net.weight(CLASSES))
    )


def _attention_of_einsums(net: Net, x: str) -> str:
    def project() -> str:
        y = net.op("Einsum", x, net.weight(WIDTH, HEADS, HEAD), equation="abc,cde->abde")
        return net.op("Add", y, net.weight(HEADS, HEAD))

    query, key, value = (project() for _ in range(3))
    query = net.op("Mul", query, net.number(HEAD**-0.5))
    scores = net.op("Einsum", key, query, equation="aecd,abcd->acbe")
    scores = net.op("Softmax", scores, axis=-1)
    mixed = net.op("Einsum", scores, value, equation="acbe,aecd->abcd")
    out = net.op("Einsum", mixed, net.weight(HEADS, HEAD, WIDTH), equation="abcd,cde->abe")
    return net.op("Add", out, net.weight(WIDTH))


def _attention_of_products(net: Net, x: str) -> str:
    """Einsums taken apart: reshaped weights, tokens merged with the batch, computed targets."""
    shape = net.op("Shape", x)
    batch = net.op("Slice", shape, net.ints(0), net.ints(1), net.ints(0))

    def project() -> str:
        rows = net.op("Reshape", x, net.ints(-1, WIDTH))
        weight = net.op("Reshape", net.weight(WIDTH, HEADS, HEAD), net.ints(WIDTH, HEADS * HEAD))
        target = net.op("Concat", batch, net.ints(TOKENS), net.ints(HEADS, HEAD), axis=0)
        y = net.op("Reshape", net.op("MatMul", rows, weight), target)
        return net.op("Add", y, net.weight(HEADS, HEAD))

    query, key, value = (project() for _ in range(3))
    query = net.op("Transpose", net.op("Mul", query, net.number(HEAD**-0.5)), perm=[0, 2, 1, 3])
    key, value = (
        net.op("Transpose", t, perm=order)
        for t, order in ((key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
    )
    scores = net.op("Softmax", net.op("MatMul", query, key), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, value), perm=[0, 2, 1, 3])
    rows = net.op("Reshape", mixed, net.ints(-1, HEADS * HEAD))
    weight = net.op("Reshape", net.weight(HEADS, HEAD, WIDTH), net.ints(HEADS * HEAD, WIDTH))
    target = net.op("Concat", batch, net.ints(TOKENS, WIDTH), axis=0)
    out = net.op("Reshape", net.op("MatMul", rows, weight), target)
    return net.op("Add", out, net.weight(WIDTH))


@topology(0.9, constants=("node", "initializer"), opset=(11, 16))
def paddle_mobile_block(constants: str, opset: int) -> onnx.ModelProto:
    """conv2d, batch_norm, hard_swish in parts, elementwise_add with a reshaped bias, and SE."""
    net = Net(opset, constants=constants)

    def hard_swish(x: str) -> str:
        low, high = net.number(0), net.number(6)
        gate = net.op("Clip", net.op("Add", x, net.number(3)), low, high)
        return net.op("Div", net.op("Mul", x, gate), net.number(6))

    def biased(x: str, width: int) -> str:
        return net.op("Add", x, net.op("Reshape", net.weight(width), net.ints(1, width, 1, 1)))

    x = hard_swish(net.norm(net.conv(net.input(-1, 3, SIZE, SIZE), 3, 8, bias=False), 8))
    wide = hard_swish(net.norm(net.conv(x, 8, 12, kernel=1, bias=False), 12))
    wide = hard_swish(net.norm(net.conv(wide, 12, 12, group=12, bias=False), 12))
    gate = net.op("GlobalAveragePool", wide)
    gate = net.relu(biased(net.conv(gate, 12, 4, kernel=1, bias=False), 4))
    gate = net.op("HardSigmoid", biased(net.conv(gate, 4, 12, kernel=1, bias=False), 12), alpha=0.2)
    wide = net.op("Mul", wide, gate)
    x = net.op("Add", x, net.norm(net.conv(wide, 12, 8, kernel=1, bias=False), 8))
    pooled = net.op("GlobalAveragePool", hard_swish(x))
    batch = net.op("Slice", net.op("Shape", pooled), net.ints(0), net.ints(1), net.ints(0))
    flat = net.op("Reshape", pooled, net.op("Concat", batch, net.ints(-1), axis=0))
    hidden = net.op("Add", net.op("MatMul", flat, net.weight(8, 10)), net.weight(10))
    out = net.op("MatMul", hard_swish(hidden), net.weight(10, CLASSES))
    return net.model(net.op("Softmax", net.op("Add", out, net.weight(CLASSES)), axis=1))


@topology(0.9, product=("matmul", "einsum"), batch=("N", 2))
def jax_convolution(product: str, batch: int | str) -> onnx.ModelProto:
    """NHWC and HWIO in Transposes around each Conv, broadcast_in_dim, and dot_general."""
    net = Net()
    x = net.input(batch, SIZE, SIZE, 3)

    def conv(x: str, channels: int, filters: int) -> str:
        kernel = net.op("Transpose", net.weight(3, 3, channels, filters), perm=[3, 2, 0, 1])
        image = net.op("Transpose", x, perm=[0, 3, 1, 2])
        y = net.op("Conv", image, kernel, pads=[1, 1, 1, 1])
        bias = net.op("Reshape", net.weight(filters), net.ints(1, 1, 1, filters))
        bias = net.op("Expand", bias, net.ints(1, SIZE, SIZE, filters))
        return net.op("Add", net.op("Transpose", y, perm=[0, 2, 3, 1]), bias)

    def relu(x: str) -> str:
        zero = net.op("Expand", net.op("Reshape", net.number(0), net.ints(1)), net.ints(1))
        return net.op("Max", x, zero)

    def dense(x: str, inner: int, outer: int) -> str:
        if product == "einsum":
            y = net.op("Einsum", x, net.weight(inner, outer), equation="ab,bc->ac")
        else:  # the weight is contracted at its last axis
            weight = net.op("Transpose", net.weight(outer, inner), perm=[1, 0])
            y = net.op("MatMul", x, weight)
        return net.op("Add", y, net.op("Reshape", net.weight(outer), net.ints(1, outer)))

    y = relu(conv(x, 3, 8))
    y = net.op("Add", y, relu(conv(y, 8, 8)))
    total = net.op("ReduceSum", y, net.ints(1, 2), keepdims=0)
    x = net.op("Div", total, net.constant(np.full((1, 1), SIZE * SIZE, np.float32)))
    return net.model(dense(relu(dense(x, 8, 10)), 10, CLASSES))


@topology(0.9, batch=("N", 2))
def jax_attention(batch: int | str) -> onnx.ModelProto:
    """dot_general keeps its batch axes first and its free ones behind, with transposes after."""
    net = Net()
    x = net.input(batch, TOKENS, WIDTH)

    def project(order: list[int]) -> str:
        y = net.op("Einsum", x, net.weight(WIDTH, HEADS, HEAD), equation="btd,dhk->bthk")
        bias = net.op("Reshape", net.weight(HEADS, HEAD), net.ints(1, 1, HEADS, HEAD))
        return net.op("Transpose", net.op("Add", y, bias), perm=order)

    query, key, value = (project(order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 3, 1]))
    query = net.op("Div", query, net.op("Sqrt", net.number(HEAD)))
    scores = net.op("MatMul", query, key)
    shifted = net.op("Sub", scores, net.op("ReduceMax", scores, axes=[3], keepdims=1))
    powers = net.op("Exp", shifted)
    weights = net.op("Div", powers, net.op("ReduceSum", powers, net.ints(3), keepdims=1))
    mixed = net.op("MatMul", value, net.op("Transpose", weights, perm=[0, 1, 3, 2]))
    rows = net.op("Transpose", mixed, perm=[0, 3, 1, 2])
    out = net.op("Einsum", rows, net.weight(HEADS, HEAD, WIDTH), equation="bthk,hkd->btd")
    x = net.op("Add", out, net.op("Reshape", net.weight(WIDTH), net.ints(1, 1, WIDTH)))
    x = net.op("ReduceMax", x, axes=[1], keepdims=0)
    return net.model(net.op("MatMul", net.op("Tanh", x), net.weight(WIDTH, CLASSES)))


@topology(0.9)
def jax_flag() -> onnx.ModelProto:
    """An argument that is true or false, as a second input: a single number."""
    net = Net()
    x = net.stem(8)
    net.inputs.append(helper.make_tensor_value_info("deterministic", TensorProto.BOOL, []))
    x = net.op("Where", "deterministic", net.conv(x, 8, 8), net.op("Tanh", x))
    return net.head(net.relu(x), 8)


@topology(0.8, first=("Scaler", "Normalizer", "Imputer", "Binarizer"))
def sklearn_pipeline(first: str) -> onnx.ModelProto:
    """What comes before the network has shapes that onnx does not infer."""
    net = Net()
    said = {
        "Scaler": {"offset": [0.5] * 7, "scale": [2.0] * 7},
        "Normalizer": {"norm": "L2"},
        "Imputer": {"imputed_value_floats": [0.0], "replaced_value_float": 3.0},
        "Binarizer": {"threshold": 0.1},
    }
    x = net.op(first, net.input("N", 7), domain="ai.onnx.ml", **said[first])
    x = net.op("Cast", x, to=TensorProto.FLOAT)
    for inner, outer in ((7, 12), (12, 10)):
        x = net.op("Add", net.op("MatMul", x, net.weight(inner, outer)), net.weight(1, outer))
        x = net.relu(x)
    return net.model(net.op("Softmax", net.op("MatMul", x, net.weight(10, CLASSES)), axis=-1))
