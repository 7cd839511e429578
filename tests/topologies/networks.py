"""Building blocks of well-known networks, each as its exporters write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from .net import CLASSES, SIZE, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

TOKENS, WIDTH, HEADS, HEAD = 6, 8, 4, 3


@topology(0.9)
def cifar_shortcut() -> onnx.ModelProto:
    """ResNet for CIFAR, option A: every other pixel, and channels of zeros before and behind."""
    net = Net()
    x = net.stem(6)
    y = net.relu(net.conv(x, 6, 10, strides=[2, 2]))
    y = net.norm(net.conv(y, 10, 10), 10)
    ends, steps = net.ints(2**31 - 1, 2**31 - 1), net.ints(2, 2)
    halved = net.op("Slice", x, net.ints(0, 0), ends, net.ints(2, 3), steps)
    padded = net.op("Pad", halved, net.ints(0, 2, 0, 0, 0, 2, 0, 0))
    x = net.relu(net.op("Add", y, padded))
    return net.head(net.relu(net.op("Add", x, net.conv(x, 10, 10))), 10)


@topology(0.9)
def inception() -> onnx.ModelProto:
    """Four branches of several depths, one of them pooled first."""
    net = Net()
    x = net.stem(8)
    third = net.relu(net.conv(net.relu(net.conv(x, 8, 4, kernel=1)), 4, 6))
    pooled = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    parts = [
        net.relu(net.conv(x, 8, 4, kernel=1)),
        net.relu(net.conv(x, 8, 6)),
        net.relu(net.conv(third, 6, 6)),
        net.relu(net.conv(pooled, 8, 4, kernel=1)),
    ]
    x = net.op("Concat", *parts, axis=1)
    return net.head(net.relu(net.conv(x, 20, 8)), 8)


@topology(0.9)
def unet() -> onnx.ModelProto:
    """Down by pooling, up by a transposed convolution, and the way down joined to the way up."""
    net = Net()
    x = net.stem(6)
    deep = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    deep = net.relu(net.conv(deep, 6, 10))
    up = net.op("ConvTranspose", deep, net.weight(10, 6, 2, 2), net.weight(6), strides=[2, 2])
    x = net.relu(net.conv(net.op("Concat", up, x, axis=1), 12, 8))
    return net.model(net.conv(x, 8, CLASSES, kernel=1))


@topology(0.9)
def feature_pyramid() -> onnx.ModelProto:
    """FPN: levels brought to one width, the coarse one resized and added; a head for both."""
    net = Net()
    fine = net.stem(6)
    coarse = net.relu(net.conv(fine, 6, 10, strides=[2, 2]))
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    lateral, top = net.conv(fine, 6, 8, kernel=1), net.conv(coarse, 10, 8, kernel=1)
    merged = net.op("Add", lateral, net.op("Resize", top, "", scales, mode="nearest"))
    weight, bias = net.weight(4, 8, 3, 3), net.weight(4)
    heads = [net.op("Conv", level, weight, bias, pads=[1] * 4) for level in (merged, top)]
    pooled = [net.op("Flatten", net.op("GlobalAveragePool", net.relu(y))) for y in heads]
    return net.model(net.gemm(net.op("Concat", *pooled, axis=1), 8, CLASSES))


@topology(0.9)
def c2f_neck() -> onnx.ModelProto:
    """YOLO: split, a bottleneck behind one half, all parts joined; resized and joined again."""
    net = Net()
    fine = net.stem(6)
    x = net.relu(net.conv(fine, 6, 8, strides=[2, 2]))
    a, b = net.ops("Split", net.conv(x, 8, 12, kernel=1), net.ints(6, 6), outputs=2, axis=1)
    c = net.op("Add", b, net.relu(net.conv(net.relu(net.conv(b, 6, 6)), 6, 6)))
    x = net.relu(net.conv(net.op("Concat", a, b, c, axis=1), 18, 8, kernel=1))
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.op("Concat", net.op("Resize", x, "", scales, mode="nearest"), fine, axis=1)
    return net.head(net.relu(net.conv(x, 14, 8)), 8)


@topology(0.85, form=("CRD", "DCR", "reshape"))
def pixel_shuffle(form: str) -> onnx.ModelProto:
    """Four channels become one of twice the size: they go together."""
    net = Net()
    x = net.conv(net.stem(8), 8, 24)
    if form == "reshape":
        x = net.op("Reshape", x, net.ints(0, 6, 2, 2, SIZE, SIZE))
        x = net.op("Transpose", x, perm=[0, 1, 4, 2, 5, 3])
        x = net.op("Reshape", x, net.ints(0, 6, 2 * SIZE, 2 * SIZE))
    else:
        x = net.op("DepthToSpace", x, blocksize=2, mode=form)
    return net.model(net.conv(net.relu(x), 6, CLASSES))


@topology(0.9)
def adaptive_pool() -> onnx.ModelProto:
    """As PyTorch's exporter writes one to more positions than there are: they are picked."""
    net = Net()
    x = net.op("Transpose", net.conv(net.stem(8), 8, 8), perm=[2, 3, 0, 1])
    rows, columns = np.meshgrid(np.arange(9) * SIZE // 9, np.arange(9) * SIZE // 9, indexing="ij")
    x = net.op("GatherND", x, net.constant(np.stack([rows, columns], axis=-1)))
    return net.head(net.relu(net.conv(net.op("Transpose", x, perm=[2, 3, 0, 1]), 8, 8)), 8)


@topology(0.9)
def focus() -> onnx.ModelProto:
    """Pixels move into channels, between two convolutions."""
    net = Net()
    x = net.op("SpaceToDepth", net.stem(6), blocksize=2)
    return net.head(net.relu(net.conv(x, 24, 8)), 8)


@topology(0.75)
def swiglu() -> onnx.ModelProto:
    """Gate and value from two layers; the gate times its own sigmoid."""
    net = Net()
    x = net.input("N", TOKENS, WIDTH)
    gate, value = (net.op("MatMul", x, net.weight(WIDTH, 12)) for _ in range(2))
    gate = net.op("Mul", gate, net.op("Sigmoid", gate))
    y = net.op("MatMul", net.op("Mul", gate, value), net.weight(12, WIDTH))
    return _classified(net, net.op("Add", x, y))


@topology(0.45)
def convnext_block() -> onnx.ModelProto:
    """Depthwise, normalised with channels last, widened, narrowed, scaled, added."""
    net = Net()
    x = net.stem(8)
    y = net.op("Transpose", net.conv(x, 8, 8, group=8, kernel=5), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.positive(8), net.weight(8), axis=-1)
    y = net.op("Add", net.op("MatMul", y, net.weight(8, 32)), net.weight(32))
    y = net.op("Mul", y, net.op("Add", net.op("Erf", y), net.number(1)))
    y = net.op("Add", net.op("MatMul", y, net.weight(32, 8)), net.weight(8))
    y = net.op("Transpose", net.op("Mul", y, net.positive(8)), perm=[0, 3, 1, 2])
    return net.head(net.op("Add", x, y), 8)


@topology(0.8)
def mixer_block() -> onnx.ModelProto:
    """MLP-Mixer: an MLP along the tokens, then one along the channels; both lose neurons."""
    net = Net()
    x = net.input("N", TOKENS, WIDTH)

    def mlp(x: str, width: int, hidden: int) -> str:
        y = net.op("Add", net.op("MatMul", x, net.weight(width, hidden)), net.weight(hidden))
        y = net.op("MatMul", net.relu(y), net.weight(hidden, width))
        return net.op("Add", y, net.weight(width))

    mixed = mlp(net.op("Transpose", x, perm=[0, 2, 1]), TOKENS, 12)
    x = net.op("Add", x, net.op("Transpose", mixed, perm=[0, 2, 1]))
    return _classified(net, net.op("Add", x, mlp(x, WIDTH, 16)))


@topology(0.85, encoder=("mean", "LSTM"))
def text_classifier(encoder: str) -> onnx.ModelProto:
    """Embedding, an encoder, Gemm: rows of the table stay, its columns go."""
    net = Net()
    x = net.op("Gather", net.weight(12, 10), _words(net))
    if encoder == "LSTM":
        x = net.op("Transpose", x, perm=[1, 0, 2])
        weights = (net.weight(1, 24, 10), net.weight(1, 24, 6), net.weight(1, 48))
        _, last, _ = net.ops("LSTM", x, *weights, outputs=3, hidden_size=6)
        return net.model(net.gemm(net.op("Squeeze", last, net.ints(0)), 6, CLASSES))
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[1], keepdims=0), 10, CLASSES))


@topology(0.9)
def tied_embedding_table() -> onnx.ModelProto:
    """A language model: the table that words are looked up in also tells the next one."""
    net = Net()
    table = net.weight(9, 8)
    x = net.op("Gather", table, _words(net))
    hidden = net.relu(net.op("MatMul", x, net.weight(8, 12)))
    x = net.op("Add", x, net.op("MatMul", hidden, net.weight(12, 8)))
    return net.model(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))


@topology(0.85)
def repeated() -> onnx.ModelProto:
    """Expand over positions, and Tile along the channels: each is there twice."""
    net = Net()
    x = net.stem(8)
    mean = net.op("ReduceMean", x, axes=[2, 3], keepdims=1)
    wide = net.op("Expand", mean, net.ints(1, 8, SIZE, SIZE))
    x = net.op("Tile", net.op("Add", x, wide), net.ints(1, 2, 1, 1))
    return net.head(net.relu(net.conv(x, 16, 8)), 8)


@topology(0.75)
def gathered_channels() -> onnx.ModelProto:
    """Some channels, picked by a list: the list gets shorter, what it picks from stays."""
    net = Net()
    x = net.op("Gather", net.stem(8), net.ints(6, 0, 3, 5), axis=1)
    return net.head(net.relu(net.conv(net.relu(net.conv(x, 4, 8)), 8, 8)), 8)


@topology(0.6, behind=("Identity", "Cast", "Concat", "Add", "Mod"))
def picked_by_what_is_computed_from_a_list(behind: str) -> onnx.ModelProto:
    """PyTorch joins equal lists by an Identity: what is picked by them is cut in both, or stays."""
    net = Net()
    picked = net.ints(6, 0, 3)
    more = {"Concat": (net.ints(5, 2),), "Add": (net.ints(1),), "Mod": (net.ints(4),)}
    said = {"Concat": {"axis": 0}, "Cast": {"to": 6}}
    again = net.op(behind, picked, *more.get(behind, ()), **said.get(behind, {}))
    a, b = net.stem(8), net.relu(net.conv("x", 3, 8))
    a = net.conv(net.op("Gather", a, picked, axis=1), 3, 8)
    b = net.conv(net.op("Gather", b, again, axis=1), 5 if behind == "Concat" else 3, 8)
    return net.head(net.conv(net.relu(net.op("Add", a, b)), 8, 8), 8)


@topology(0.85)
def masks_of_opposite_sense() -> onnx.ModelProto:
    """A constant condition, and what is computed of it: both follow the channels."""
    net = Net()
    mask = net.constant(np.array([1, 0, 1, 1, 0, 1, 0, 1], bool).reshape(8, 1, 1))
    x = net.stem(8)
    a = net.op("Where", mask, net.conv(x, 8, 8), net.number(0))
    b = net.op("Where", net.op("Not", mask), net.conv(x, 8, 8), net.number(0))
    return net.head(net.relu(net.conv(net.op("Concat", a, b, axis=1), 16, 8)), 8)


@topology(0.65, order=("parts", "heads"), batched=(True, False))
def packed_attention(order: str, batched: bool) -> onnx.ModelProto:
    """Queries, keys and values from one layer, taken apart behind a Reshape."""
    net = Net()
    lead = (0,) if batched else ()
    first = len(lead)
    x = net.input("N", TOKENS, WIDTH) if batched else net.input(TOKENS, WIDTH)
    packed = net.op("MatMul", x, net.weight(WIDTH, 3 * HEADS * HEAD))
    sizes = (3, HEADS, HEAD) if order == "parts" else (HEADS, 3, HEAD)
    packed = net.op("Reshape", packed, net.ints(*lead, TOKENS, *sizes))
    part = first + (1 if order == "parts" else 2)
    turned = [*range(first), first + 1, first, first + 2]
    query, key, value = (
        net.op("Transpose", net.op("Gather", packed, net.constant(np.array(i)), axis=part), perm=p)
        for i, p in enumerate((turned, [*range(first), first + 1, first + 2, first], turned))
    )
    query = net.op("Mul", query, net.number(HEAD**-0.5))
    scores = net.op("Softmax", net.op("MatMul", query, key), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, value), perm=turned)
    joined = net.op("Reshape", mixed, net.ints(*lead, TOKENS, HEADS * HEAD))
    y = net.op("Add", x, net.op("MatMul", joined, net.weight(HEADS * HEAD, WIDTH)))
    if not batched:
        y = net.op("Unsqueeze", y, net.ints(0))
    return _classified(net, y)


@topology(0.4)
def grouped_query_attention() -> onnx.ModelProto:
    """Two heads of queries for each of keys and values, which are repeated by an Expand."""
    net = Net()
    x = net.input("N", TOKENS, WIDTH)
    groups = HEADS // 2

    def project(heads: int) -> str:
        y = net.op("MatMul", x, net.weight(WIDTH, heads * HEAD))
        y = net.op("Reshape", y, net.ints(0, 0, heads, HEAD))
        return net.op("Transpose", y, perm=[0, 2, 1, 3])

    def repeated(y: str) -> str:
        y = net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, 1, 2, 1, 1))
        return net.op("Reshape", y, net.ints(0, HEADS, TOKENS, HEAD))

    query, key, value = project(HEADS), repeated(project(groups)), repeated(project(groups))
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    joined = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
    y = net.op("Add", x, net.op("MatMul", joined, net.weight(HEADS * HEAD, WIDTH)))
    return _classified(net, y)


@topology(0.85)
def class_token() -> onnx.ModelProto:
    """A learned token before the others, repeated for each image by a computed number."""
    net = Net()
    x = net.op("MatMul", net.input("N", TOKENS, WIDTH), net.weight(WIDTH, 10))
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1), net.ints(0))
    repeats = net.op("Concat", batch, net.ints(1, 1), axis=0)
    token = net.op("Tile", net.weight(1, 1, 10), repeats)
    x = net.relu(net.op("MatMul", net.op("Concat", token, x, axis=1), net.weight(10, WIDTH)))
    return _classified(net, x)


def _classified(net: Net, x: str) -> onnx.ModelProto:
    """The mean over tokens, and a last layer."""
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[1], keepdims=0), WIDTH, CLASSES))


def _words(net: Net) -> str:
    """An input of numbers of words."""
    net.inputs.append(helper.make_tensor_value_info("words", TensorProto.INT64, ["N", TOKENS]))
    return "words"
