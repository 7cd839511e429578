"""Operators that ONNX Runtime fuses, and attention in one operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .net import CLASSES, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

FUSED = "com.microsoft"
STEPS, WIDTH, HEADS, SIZE_OF_HEAD = 6, 12, 4, 8


@topology(0.9, added=(False, True))
def fused_conv(added: bool) -> onnx.ModelProto:
    """Convolution with its activation, and with what is added before that."""
    net = Net()
    x = net.stem(8)
    y = net.conv(x, 8, 8)
    more = [net.weight(8), x] if added else [net.weight(8)]
    y = net.op(
        "FusedConv", y, net.weight(8, 8, 3, 3), *more, domain=FUSED, activation="Relu",
        pads=[1, 1, 1, 1],
    )  # fmt: skip
    return net.head(net.relu(net.conv(y, 8, 8)), 8)


@topology(0.9, trans_a=(0, 1), trans_b=(0, 1))
def fused_matmul(trans_a: int, trans_b: int) -> onnx.ModelProto:
    net = Net()
    x = net.op("MatMul", net.input(2, STEPS, 7), net.weight(7, 10))
    if trans_a:
        x = net.op("Transpose", x, perm=[0, 2, 1])
    weight = net.weight(12, 10) if trans_b else net.weight(10, 12)
    x = net.op("FusedMatMul", x, weight, domain=FUSED, transA=trans_a, transB=trans_b, alpha=0.5)
    return net.model(net.op("MatMul", net.relu(x), net.weight(12, CLASSES)))


@topology(0.9)
def fused_gemm() -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    weights = [net.weight(12, 10), net.weight(12)]
    x = net.op("FusedGemm", x, *weights, domain=FUSED, transB=1, activation="Relu")
    return net.model(net.gemm(x, 12, CLASSES))


@topology(0.9, kind=("Gelu", "QuickGelu", "FastGelu", "BiasGelu"))
def fused_gelu(kind: str) -> onnx.ModelProto:
    """With a bias of its own, or without."""
    net = Net()
    x = net.op("MatMul", net.input("N", STEPS, 7), net.weight(7, 10))
    bias = [net.weight(10)] if kind in ("BiasGelu", "FastGelu") else []
    x = net.op(kind, x, *bias, domain=FUSED)
    return net.model(net.op("MatMul", x, net.weight(10, CLASSES)))


@topology(0.4, kind=("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"))
def fused_skip_normalization(kind: str) -> onnx.ModelProto:
    """Behind an MLP: its neurons go, the width stays."""
    net = Net()
    x = net.input("N", STEPS, 7)
    y = net.relu(net.op("MatMul", x, net.weight(7, 20)))
    y = net.op("MatMul", y, net.weight(20, 7))
    scale = [net.positive(7)] if "Simplified" in kind else [net.positive(7), net.weight(7)]
    y, _, _, x = net.ops(kind, y, x, *scale, outputs=4, domain=FUSED)
    x = net.op("Add", net.op("MatMul", y, net.weight(7, 7)), x)
    return net.model(net.op("MatMul", x, net.weight(7, CLASSES)))


def normalised_before_there_was_an_operator(opset: int = 14) -> onnx.ModelProto:
    """ONNX Runtime's optimiser writes LayerNormalization into models of any opset.

    It is no topology: onnx calls it invalid, before a cut and after it.
    """
    net = Net(opset)
    x = net.relu(net.op("MatMul", net.input("N", STEPS, 7), net.weight(7, 10)))
    x = net.op("MatMul", x, net.weight(10, 8))
    x = net.op("LayerNormalization", x, net.positive(8), net.weight(8), axis=-1)
    x = net.relu(net.op("MatMul", x, net.weight(8, 12)))
    return net.model(net.op("MatMul", x, net.weight(12, CLASSES)))


@topology(0.6, sizes=(False, True), biased=(False, True))
def fused_attention(sizes: bool, biased: bool) -> onnx.ModelProto:
    """With the projections inside; the heads of the values may be wider."""
    net = Net()
    width = HEADS * SIZE_OF_HEAD
    value = 2 * width if sizes else width
    said = {"qkv_hidden_sizes": [width, width, value]} if sizes else {}
    x = net.op("MatMul", net.input(2, STEPS, WIDTH), net.weight(WIDTH, 10))
    inputs = [x, net.weight(10, 2 * width + value), net.weight(2 * width + value)]
    if biased:
        inputs += ["", "", net.weight(1, HEADS, STEPS, STEPS)]
    x = net.op("Attention", *inputs, domain=FUSED, num_heads=HEADS, **said)
    return net.model(net.op("MatMul", x, net.weight(value, CLASSES)))


def _projected(net: Net, x: str, *widths: int) -> list[str]:
    return [net.op("MatMul", x, net.weight(WIDTH, width)) for width in widths]


@topology(0.7, bias=(False, True))
def fused_multi_head_attention(bias: bool) -> onnx.ModelProto:
    net = Net()
    width = HEADS * SIZE_OF_HEAD
    parts = _projected(net, net.input(2, STEPS, WIDTH), width, width, width)
    more = [net.weight(3 * width)] if bias else []
    x = net.op("MultiHeadAttention", *parts, *more, domain=FUSED, num_heads=HEADS)
    return net.model(net.op("MatMul", x, net.weight(width, CLASSES)))


@topology(0.7)
def fused_group_query_attention() -> onnx.ModelProto:
    """Two heads of queries for each of keys and values."""
    net = Net()
    x = net.input(2, STEPS, WIDTH)
    width = HEADS * SIZE_OF_HEAD
    parts = _projected(net, x, 2 * width, width, width)
    lengths = net.constant(np.full(2, STEPS - 1, np.int32))
    total = net.constant(np.array(STEPS, np.int32))
    x = net.ops(
        "GroupQueryAttention", *parts, "", "", lengths, total, outputs=3, domain=FUSED,
        num_heads=2 * HEADS, kv_num_heads=HEADS,
    )[0]  # fmt: skip
    return net.model(net.op("MatMul", x, net.weight(2 * width, CLASSES)))


@topology(0.7, shared=(1, 2), opset=(23, 24))
def attention_side_by_side(shared: int, opset: int) -> onnx.ModelProto:
    """Attention of the default domain, rank 3; values have a width of their own."""
    net = Net(opset, ir_version=11)
    width = HEADS * SIZE_OF_HEAD
    parts = _projected(net, net.input(2, STEPS, WIDTH), shared * width, width, 2 * width)
    said = {"q_num_heads": shared * HEADS, "kv_num_heads": HEADS}
    mask = net.weight(shared * HEADS, STEPS, STEPS)
    x = net.op("Attention", *parts, mask, **said)
    return net.model(net.op("MatMul", x, net.weight(2 * shared * width, CLASSES)))


@topology(0.35, scale=(None, 0.3))
def attention_with_heads_apart(scale: float | None) -> onnx.ModelProto:
    """Rank 4, with a key and a value that no head shares; dimensions go if the scale is given."""
    net = Net(23, ir_version=11)
    x = net.input(2, 1, STEPS, WIDTH)
    query, key, value = (
        net.op("MatMul", x, net.weight(HEADS, WIDTH, SIZE_OF_HEAD)) for _ in range(3)
    )
    x = net.op("Attention", query, key, value, **({} if scale is None else {"scale": scale}))
    x = net.op("MatMul", x, net.weight(HEADS, SIZE_OF_HEAD, CLASSES))
    return net.model(net.op("ReduceSum", x, net.ints(1), keepdims=0))


@topology(0.6, opset=(17, 23))
def rotary_embedding(opset: int) -> onnx.ModelProto:
    """Queries and keys are turned inside their heads."""
    net = Net(opset, ir_version=11 if opset > 17 else 8)
    width = HEADS * SIZE_OF_HEAD
    query, key, value = _projected(net, net.input(2, STEPS, WIDTH), width, width, width)
    caches = [net.weight(STEPS, SIZE_OF_HEAD // 2) for _ in range(2)]
    steps = net.constant(np.tile(np.arange(STEPS), (2, 1)))
    inputs = [steps, *caches] if opset < 23 else [*caches, steps]
    domain = FUSED if opset < 23 else ""
    query, key = (
        net.op("RotaryEmbedding", part, *inputs, domain=domain, num_heads=HEADS)
        for part in (query, key)
    )
    x = net.op("MultiHeadAttention", query, key, value, domain=FUSED, num_heads=HEADS)
    return net.model(net.op("MatMul", x, net.weight(width, CLASSES)))
