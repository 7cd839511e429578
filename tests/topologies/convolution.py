"""Convolutions, transposed ones, pooling and the normalisations between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from .net import SIZE, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx


@topology(0.95, bias=(False, True), opset=(7, 11, 22))
def conv_chain(bias: bool, opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.relu(net.conv(net.input(), 3, 8, bias=bias))
    return net.head(net.relu(net.conv(x, 8, 12, bias=bias)), 12)


@topology(0.9, rank=(1, 3))
def conv_1d_and_3d(rank: int) -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.input("N", 3, *[SIZE] * rank), 3, 8, rank=rank))
    return net.head(net.relu(net.conv(x, 8, 6, rank=rank)), 6)


@topology(0.85, groups=(2, 4, 8))
def conv_grouped(groups: int) -> onnx.ModelProto:
    """16 channels: 8 groups of 2 go as wholes; of 2 groups the same offsets go."""
    net = Net()
    x = net.relu(net.conv(net.stem(16), 16, 16, group=groups))
    return net.head(net.relu(net.conv(x, 16, 8)), 8)


@topology(0.9)
def conv_grouped_widening() -> onnx.ModelProto:
    """Few groups with more outputs than inputs, one after the other."""
    net = Net()
    x = net.relu(net.conv(net.stem(8), 8, 12, group=2))
    return net.head(net.relu(net.conv(x, 12, 24, group=2)), 24)


@topology(0.0)
def conv_grouped_on_input() -> onnx.ModelProto:
    """Depthwise on the image itself: nothing before the first dense layer can go."""
    net = Net()
    return net.head(net.conv(net.input(), 3, 6, group=3), 6)


@topology(0.85, multiplier=(1, 2))
def conv_depthwise(multiplier: int) -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.stem(8), 8, 8 * multiplier, group=8))
    return net.head(net.relu(net.conv(x, 8 * multiplier, 10, kernel=1)), 10)


@topology(0.9)
def conv_depthwise_of_doubled() -> onnx.ModelProto:
    """The same channels twice on one axis: a component has two groups of the convolution."""
    net = Net()
    x = net.stem(6)
    x = net.op("Concat", x, x, axis=1)
    return net.head(net.conv(net.conv(x, 12, 12, group=12), 12, 8), 8)


@topology(0.7, groups=(1, 2, 8))
def conv_transpose(groups: int) -> onnx.ModelProto:
    net = Net()
    weight, bias = net.weight(8, 8 // groups, 2, 2), net.weight(8)
    x = net.op("ConvTranspose", net.stem(8), weight, bias, group=groups, strides=[2, 2])
    return net.head(net.conv(net.relu(x), 8, 6), 6)


@topology(0.9)
def conv_transpose_1d() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("N", 3, SIZE), 3, 8, rank=1)
    x = net.op("ConvTranspose", x, net.weight(8, 10, 3))
    return net.head(net.op("Tanh", x), 10)


@topology(0.4)
def conv_of_a_computed_weight() -> onnx.ModelProto:
    """The kernel depends on the input: it has no constants of its own."""
    net = Net()
    x = net.input(1, 3, SIZE, SIZE)
    kernel = net.gemm(net.op("Flatten", net.op("GlobalAveragePool", x)), 3, 8 * 6)
    kernel = net.op("Reshape", kernel, net.ints(6, 8, 1, 1))
    return net.head(net.op("Conv", net.stem(8, x), kernel), 6)


@topology(0.9, opset=(7, 9, 14, 15))
def batch_normalization(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.relu(net.norm(net.conv(net.input(), 3, 8, bias=False), 8))
    return net.head(net.norm(net.relu(net.conv(x, 8, 8)), 8), 8)


@topology(0.9)
def instance_normalization() -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input(), 3, 8)
    x = net.op("InstanceNormalization", x, net.positive(8), net.weight(8))
    return net.head(net.conv(net.relu(x), 8, 8), 8)


@topology(0.4, groups=(1, 2, 4), computed=(False, True))
def group_norm_as_instance_norm(groups: int, computed: bool) -> onnx.ModelProto:
    """Below opset 21, PyTorch writes it with the groups reshaped to channels of their own."""
    net = Net()
    y = net.conv(net.stem(8), 8, 8)
    apart = net.op("Reshape", y, net.ints(0, groups, -1))
    ones, zeros = (net.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    y2 = net.op("InstanceNormalization", apart, ones, zeros)
    shape = net.op("Shape", y) if computed else net.ints(0, 8, SIZE, SIZE)
    y = net.op("Reshape", y2, shape)
    y = net.op("Add", net.op("Mul", y, net.positive(8, 1, 1)), net.weight(8, 1, 1))
    return net.head(net.relu(net.conv(net.relu(y), 8, 8)), 8)


@topology(0.95, opset=(7, 12, 19))
def pools(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.op("MaxPool", net.stem(8), kernel_shape=[2, 2])
    x = net.op("AveragePool", net.conv(x, 8, 8), kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    x = net.op("LpPool", net.conv(x, 8, 8), kernel_shape=[2, 2])
    x = net.conv(x, 8, 8)
    parts = [net.op(kind, x) for kind in ("GlobalMaxPool", "GlobalLpPool", "GlobalAveragePool")]
    joined = net.op("Flatten", net.op("Concat", *parts, axis=1))
    return net.model(net.gemm(joined, 24, 5))


@topology(0.6)
def max_pool_with_positions() -> onnx.ModelProto:
    """The positions are counted over channels, so these stay."""
    net = Net()
    x, positions = net.ops("MaxPool", net.stem(8), outputs=2, kernel_shape=[2, 2])
    x = net.op("Add", x, net.op("Cast", positions, to=1))
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.9, opset=(11, 13, 18), target=("scales", "sizes"))
def resize(opset: int, target: str) -> onnx.ModelProto:
    net = Net(opset)
    x = net.stem(8, net.input(2, 3, SIZE, SIZE))
    region = net.constant(_floats()) if opset == 11 else ""
    if target == "scales":
        x = net.op("Resize", x, region, net.constant(_floats(1, 1, 2, 2)), mode="nearest")
    else:
        scales = net.constant(_floats()) if opset == 11 else ""
        x = net.op("Resize", x, region, scales, net.ints(2, 8, 9, 9), mode="linear")
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.95)
def resize_of_some_axes() -> onnx.ModelProto:
    net = Net(18)
    x = net.op("Resize", net.stem(8), "", net.constant(_floats(2, 3)), axes=[2, 3])
    x = net.op("Resize", net.conv(x, 8, 8), "", "", net.ints(8, 4), axes=[1, 3])
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9, form=("whole", "some axes", "own channels"), batch=("N", 2))
def resize_to_the_size_of_another(form: str, batch: int | str) -> onnx.ModelProto:
    """A feature pyramid: the sizes are another map's shape, or its height and width at the end."""
    net = Net(18)
    fine = net.stem(8, net.input(batch, 3, "H", SIZE))
    wide = net.conv(fine, 8, 10)
    coarse = net.op("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2])
    coarse = net.relu(net.conv(coarse, 10, 10))
    shape = net.op("Shape", wide)
    places = net.op("Slice", shape, net.ints(2), net.ints(4))
    if form == "whole":
        up = net.op("Resize", coarse, "", "", shape, mode="nearest")
    elif form == "some axes":
        up = net.op("Resize", coarse, "", "", places, axes=[2, 3], mode="linear")
    else:  # as PyTorch's older exporter writes it
        own = net.op("Slice", net.op("Shape", coarse), net.ints(0), net.ints(2))
        sizes = net.op("Concat", own, net.op("Cast", places, to=TensorProto.INT64), axis=0)
        up = net.op("Resize", coarse, "", "", sizes, mode="nearest")
    both = net.op("Concat", up, net.op("Sigmoid", wide), axis=1)
    return net.head(net.relu(net.conv(both, 20, 8)), 8)


@topology(0.3)
def resize_to_a_size_that_is_computed_with() -> onnx.ModelProto:
    """Twice the half of the channels is not their number once some are gone: they stay."""
    net = Net(18)
    x = net.conv(net.stem(8, net.input("N", 3, "H", SIZE)), 8, 8)
    shape = net.op("Shape", x)
    batch, channels, height, width = (net.op("Gather", shape, net.ints(i)) for i in range(4))
    channels = net.op("Mul", net.op("Div", channels, net.ints(2)), net.ints(2))
    sizes = net.op("Concat", batch, channels, net.op("Mul", height, channels), width, axis=0)
    x = net.op("Resize", x, "", "", sizes, mode="nearest")
    return net.head(net.relu(net.conv(net.relu(net.conv(x, 8, 8)), 8, 8)), 8)


@topology(0.9, opset=(7, 9, 10))
def upsample(opset: int) -> onnx.ModelProto:
    """The older names and places of the same."""
    net = Net(opset)
    x = net.stem(8)
    if opset == 7:
        x = net.op("Upsample", x, scales=[1.0, 1.0, 2.0, 2.0])
    else:
        kind = "Upsample" if opset == 9 else "Resize"
        x = net.op(kind, x, net.constant(_floats(1, 1, 2, 2)))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.65)
def resize_of_channels() -> onnx.ModelProto:
    """Interpolates between channels: these stay."""
    net = Net()
    x = net.op("Resize", net.stem(8), "", net.constant(_floats(1, 1.5, 1, 1)))
    return net.head(net.relu(net.conv(x, 12, 8)), 8)


@topology(0.9, opset=(10, 13, 18))
def pad_spatial(opset: int) -> onnx.ModelProto:
    net = Net(opset)
    x = net.op("Sigmoid", net.stem(8))
    if opset == 10:
        x = net.op("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    elif opset == 13:
        x = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), net.number(0.5))
    else:
        x = net.op("Pad", x, net.ints(1, -1, 1, 2), "", net.ints(-2, 3), mode="reflect")
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.65, opset=(10, 13))
def pad_channels(opset: int) -> onnx.ModelProto:
    """Padded channels stay."""
    net = Net(opset)
    pads = [0, 1, 0, 0, 0, 1, 0, 0]
    arguments = () if opset == 10 else (net.ints(*pads),)
    attributes = {"pads": pads} if opset == 10 else {}
    x = net.op("Pad", net.stem(8), *arguments, **attributes)
    return net.head(net.relu(net.conv(x, 10, 8)), 8)


def _floats(*values: float):
    import numpy as np

    return np.array(values, dtype=np.float32)
