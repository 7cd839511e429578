"""Flatten, Reshape, Squeeze, Unsqueeze, Transpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from .net import CLASSES, SIZE, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

AREA = SIZE * SIZE


@topology(0.95, axis=(1, -3), batch=("N", 2))
def flatten(axis: int, batch: int | str) -> onnx.ModelProto:
    net = Net()
    x = net.op("Flatten", net.stem(4, net.input(batch, 3, SIZE, SIZE)), axis=axis)
    return net.model(net.gemm(net.relu(net.gemm(x, 4 * AREA, 10)), 10, CLASSES))


@topology(0.45)
def flatten_after_channels() -> onnx.ModelProto:
    """(N, C, H, W) to (N C, H W): the batch is known, so rows can be told apart."""
    net = Net()
    x = net.op("Flatten", net.stem(8, net.input(2, 3, SIZE, SIZE)), axis=2)
    x = net.relu(net.gemm(x, AREA, 6))
    x = net.op("Reshape", x, net.ints(2, 8, 6))
    x = net.op("ReduceMean", x, axes=[2], keepdims=0)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.0)
def flatten_of_an_open_batch() -> onnx.ModelProto:
    """(N C, H W) with N unknown."""
    net = Net()
    x = net.op("Flatten", net.stem(8), axis=2)
    return net.model(net.gemm(x, AREA, CLASSES))


@topology(
    0.95,
    target=((0, -1), (-1, 4 * AREA), (0, 4 * AREA), (-1, 4, AREA), (0, 4, -1), (0, 0, -1)),
)
def reshape(target: tuple[int, ...]) -> onnx.ModelProto:
    """(N, C, H, W) to (N, C H W), at once or by (N, C, H W)."""
    net = Net()
    x = net.op("Reshape", net.stem(4), net.ints(*target))
    if len(target) == 3:
        x = net.op("Reshape", x, net.ints(-1, 4 * AREA))
    return net.model(net.gemm(net.relu(net.gemm(x, 4 * AREA, 10)), 10, CLASSES))


@topology(0.95)
def reshape_there_and_back() -> onnx.ModelProto:
    """(N, C, H, W), (N, C H W), (N, C, H, W), with one shape for two nodes."""
    net = Net()
    back = net.ints(-1, 8, SIZE, SIZE)
    x = net.op("Reshape", net.stem(8), net.ints(0, 8 * AREA))
    x = net.conv(net.op("Reshape", x, back), 8, 8)
    x = net.op("Reshape", net.op("Flatten", x), back)
    return net.head(net.conv(net.relu(x), 8, 8), 8)


@topology(0.85)
def reshape_by_the_shape_of_an_equal() -> onnx.ModelProto:
    """One shape for two nodes whose components differ."""
    net = Net()
    x = net.input()
    shape = net.ints(-1, 8, AREA)
    a, b = (net.op("Reshape", net.stem(8, x), shape) for _ in range(2))
    a = net.op("ReduceMean", a, axes=[2], keepdims=0)
    b = net.op("ReduceMax", b, axes=[2], keepdims=0)
    return net.model(net.op("Add", net.gemm(a, 8, CLASSES), net.gemm(b, 8, CLASSES)))


@topology(0.0)
def reshape_by_an_identity() -> onnx.ModelProto:
    """Shape inference does not look behind Identity: pinned."""
    net = Net()
    x = net.input(2, 3, SIZE, SIZE)
    shape = net.ints(2, 8, AREA)
    a = net.op("Reshape", net.stem(8, x), shape)
    b = net.op("Reshape", net.stem(8, x), net.op("Identity", shape))
    x = net.op("ReduceMean", net.op("Concat", a, b, axis=1), axes=[2], keepdims=0)
    return net.model(net.gemm(x, 16, CLASSES))


@topology(0.85)
def reshape_by_value_ints() -> onnx.ModelProto:
    """The shape is a Constant node's list of numbers, not a tensor."""
    net = Net()
    shape = net.op("Constant", value_ints=[-1, 8, AREA])
    x = net.op("Reshape", net.stem(8), shape)
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[2], keepdims=0), 8, CLASSES))


@topology(0.85, computed=("batch", "positions", "rows"))
def reshape_where_zero_is_a_length(computed: str) -> onnx.ModelProto:
    """As PyTorch's exporter writes it: the target is computed, and a 0 in it copies nothing."""
    net = Net()
    x = net.stem(8, net.input("N", 3, "H", SIZE))
    shape = net.op("Shape", x)
    batch, height = (net.op("Gather", shape, net.ints(axis), axis=0) for axis in (0, 2))
    last = {"batch": (net.ints(-1),), "positions": (net.op("Mul", height, net.ints(SIZE)),)}
    parts = last.get(computed, (height, net.ints(SIZE)))
    target = net.op("Concat", batch, net.ints(8), *parts, axis=0)
    x = net.op("Reshape", x, target, allowzero=1)
    x = net.op("ReduceMean", x, axes=[*range(2, 2 + len(parts))], keepdims=0)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.85, form=("backwards", "every second"))
def length_sliced_from_a_shape_without_axes(form: str) -> onnx.ModelProto:
    """Slice(shape, starts, ends, "", steps): what is left out has a place, too."""
    net = Net()
    x = net.stem(8)
    shape = net.op("Shape", x)
    if form == "backwards":  # (H, C, N)
        some, place = net.op("Slice", shape, net.ints(2), net.ints(-5), "", net.ints(-1)), 1
    else:  # (C, W)
        some, place = net.op("Slice", shape, net.ints(1), net.ints(4), "", net.ints(2)), 0
    channels = net.op("Gather", some, net.constant(np.array(place)))
    channels = net.op("Cast", channels, to=TensorProto.FLOAT)
    x = net.op("Div", net.op("ReduceSum", x, net.ints(2, 3), keepdims=0), channels)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.9)
def reshape_splits_channels() -> onnx.ModelProto:
    """Channel shuffle: 12 channels are 4 groups of 3, which trade places."""
    net = Net()
    x = net.op("Reshape", net.stem(12), net.ints(-1, 4, 3, SIZE, SIZE))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, net.ints(-1, 12, SIZE, SIZE))
    return net.head(net.conv(x, 12, 8), 8)


@topology(0.95)
def reshape_864_style() -> onnx.ModelProto:
    """(N, C, H, W) to (N, C H, W): heights are counted inside channels."""
    net = Net()
    x = net.op("Reshape", net.stem(8), net.ints(0, 8 * SIZE, SIZE))
    x = net.relu(net.conv(x, 8 * SIZE, 10, rank=1))
    return net.head(x, 10)


@topology(0.8)
def reshape_copies_a_length() -> onnx.ModelProto:
    """(2, 4, 6, 2) to (0, 8, 0): the second zero copies a length that the cut does not change."""
    net = Net()
    x = net.conv(net.input(2, 3, 6, 2), 3, 4)
    x = net.op("Reshape", x, net.ints(0, 8, 0))
    return net.head(net.conv(x, 8, 6, rank=1), 6)


@topology(0.6)
def reshape_copies_the_length_of_channels() -> onnx.ModelProto:
    """(N, 4, 6) with 6 channels last to (0, 8, 0): the zero would copy what is cut."""
    net = Net()
    x = net.op("Transpose", net.conv(net.input("N", 3, 4), 3, 6, rank=1), perm=[0, 2, 1])
    x = net.op("Unsqueeze", x, net.ints(3))
    x = net.op("Concat", x, x, axis=3)
    x = net.op("Reshape", x, net.ints(0, 8, 0))
    return net.head(net.conv(x, 8, 6, rank=1), 6)


@topology(0.6)
def reshape_merges_the_batch() -> onnx.ModelProto:
    """(2, C, H, W) to (2 C, 1, H, W): a spatial filter for all channels."""
    net = Net()
    x = net.op("Reshape", net.stem(8, net.input(2, 3, SIZE, SIZE)), net.ints(16, 1, SIZE, SIZE))
    x = net.op("Reshape", net.conv(x, 1, 1), net.ints(2, 8, SIZE, SIZE))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.85, opset=(11, 13))
def squeeze_and_unsqueeze(opset: int) -> onnx.ModelProto:
    net = Net(opset)

    def call(kind: str, x: str, *axes: int) -> str:
        if opset < 13:
            return net.op(kind, x, axes=axes)
        return net.op(kind, x, net.ints(*axes))

    x = net.op("GlobalAveragePool", net.stem(8))
    x = call("Unsqueeze", call("Squeeze", x, 2, -1), -1, 2)
    x = net.conv(x, 8, 8, kernel=1)
    return net.model(net.gemm(call("Squeeze", x, 3, 2), 8, CLASSES))


@topology(0.6)
def squeeze_without_axes() -> onnx.ModelProto:
    """It drops whatever has length one: the channels must never get there."""
    net = Net()
    x = net.op("GlobalAveragePool", net.stem(8, net.input(2, 3, SIZE, SIZE)))
    return net.model(net.gemm(net.op("Squeeze", x), 8, CLASSES))


@topology(0.9)
def channels_last() -> onnx.ModelProto:
    """Transposes around everything that is not a convolution, as Keras' exports have them."""
    net = Net()
    x = net.op("Transpose", net.stem(8), perm=[0, 2, 3, 1])
    x = net.op("Mul", net.op("Add", x, net.weight(8)), net.positive(1, 1, 1, 8))
    x = net.conv(net.op("Transpose", x, perm=[0, 3, 1, 2]), 8, 8)
    x = net.op("ReduceMean", net.op("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    return net.model(net.gemm(x, 8, CLASSES))


@topology(0.95)
def channels_last_flattened() -> onnx.ModelProto:
    """(N, H, W, C) to (N, H W C): the channels are counted innermost."""
    net = Net()
    x = net.op("Transpose", net.stem(4), perm=[0, 2, 3, 1])
    x = net.op("Reshape", x, net.ints(-1, 4 * AREA))
    return net.model(net.gemm(net.relu(net.gemm(x, 4 * AREA, 10)), 10, CLASSES))


@topology(0.9)
def transpose_reversed() -> onnx.ModelProto:
    """No perm: the axes come in reverse."""
    net = Net()
    x = net.relu(net.op("Transpose", net.op("Transpose", net.stem(8))))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.8)
def open_positions() -> onnx.ModelProto:
    """Height and width are not known: channels can't be told from them once merged."""
    net = Net()
    x = net.stem(8, net.input("N", 3, "H", "W"))
    x = net.conv(x, 8, 8)
    x = net.op("Reshape", x, net.ints(0, 8, -1))
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[2], keepdims=0), 8, CLASSES))


@topology(0.9)
def channels_last_and_back() -> onnx.ModelProto:
    """(N, H, W, C) to (N, H W C) and back: the last part tells the channels apart."""
    net = Net()
    x = net.op("Transpose", net.stem(8), perm=[0, 2, 3, 1])
    x = net.op("Reshape", net.op("Flatten", x), net.ints(-1, SIZE, SIZE, 8))
    return net.head(net.conv(net.op("Transpose", x, perm=[0, 3, 1, 2]), 8, 8), 8)


@topology(0.75)
def reshape_of_many_positions() -> onnx.ModelProto:
    """Equations that occur 256 times each: counted in a byte they would vanish."""
    net = Net()
    x = net.conv(net.input("N", 3, 256), 3, 4, kernel=1, rank=1)
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), net.ints(-1, 2, 512))
    x = net.op("ReduceMean", x, axes=[2], keepdims=0)
    return net.model(net.gemm(net.relu(net.gemm(x, 2, 12)), 12, CLASSES))


@topology(0.9, step=(2, 3))
def slice_with_a_step(step: int) -> onnx.ModelProto:
    """Every few channels, from the second on; the rest goes another way."""
    net = Net()
    x = net.relu(net.conv(net.stem(8), 8, 12))
    bounds = net.ints(1), net.ints(2**31 - 1)
    some = net.op("Slice", x, *bounds, net.ints(1), net.ints(step))
    width = len(range(1, 12, step))
    pooled = [net.op("Flatten", net.op("GlobalMaxPool", t)) for t in (x, some)]
    return net.model(net.op("Add", *map(net.gemm, pooled, (12, width), (CLASSES, CLASSES))))


@topology(0.85, opset=(9, 13))
def slice_counted_from_the_end(opset: int) -> onnx.ModelProto:
    """All but the last channel, and the last three: the bounds are negative."""
    net = Net(opset)
    x = net.relu(net.conv(net.stem(8), 8, 9))
    parts = []
    for begin, end, width in ((0, -1, 8), (-3, 2**31 - 1, 3)):
        if opset < 10:
            part = net.op("Slice", x, starts=[begin], ends=[end], axes=[1])
        else:
            part = net.op("Slice", x, net.ints(begin), net.ints(end), net.ints(1))
        pooled = net.op("Flatten", net.op("GlobalMaxPool", part))
        parts.append(net.gemm(pooled, width, CLASSES))
    return net.model(net.op("Add", *parts))


@topology(0.85)
def interleaved_pairs() -> onnx.ModelProto:
    """Sines of even channels and cosines of odd ones, as position encodings have it."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 12))
    even, odd = (
        net.op("Slice", x, net.ints(k), net.ints(12), net.ints(1), net.ints(2)) for k in (0, 1)
    )
    x = net.op("Concat", net.op("Sin", even), net.op("Cos", odd), axis=1)
    return net.model(net.gemm(net.relu(net.gemm(x, 12, 10)), 10, CLASSES))


@topology(0.9)
def slice_backwards() -> onnx.ModelProto:
    """All channels in the other order."""
    net = Net()
    x = net.relu(net.conv(net.stem(8), 8, 8))
    bounds = net.ints(-1), net.ints(-(2**31))
    x = net.op("Slice", x, *bounds, net.ints(1), net.ints(-1))
    return net.head(net.relu(net.conv(x, 8, 8)), 8)
