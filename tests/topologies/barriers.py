"""What components can't get through: operators without a rule, and subgraphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .net import CLASSES, SIZE, Net
from .registry import topology


@topology(0.8, runnable=False)
def custom_operator() -> onnx.ModelProto:
    """Of a domain that nobody knows, so even its output's shape is unknown."""
    net = Net()
    x = net.op("Mystery", net.conv(net.stem(8), 8, 8), domain="org.example")
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.gemm(pooled, 8, CLASSES))


@topology(0.9)
def operator_pinned_on_purpose() -> onnx.ModelProto:
    """LRN looks across channels."""
    net = Net()
    x = net.op("LRN", net.conv(net.stem(8), 8, 8), size=3)
    return net.head(net.conv(net.relu(net.conv(x, 8, 8)), 8, 8), 8)


@topology(0.8)
def layer_normalization() -> onnx.ModelProto:
    """The statistics are taken over what would be cut."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    x = net.gemm(x, 10, 8)
    x = net.op("LayerNormalization", x, net.positive(8), net.weight(8))
    return net.model(net.gemm(net.relu(net.gemm(x, 8, 10)), 10, CLASSES))


@topology(
    0.85, kind=("LayerNormalization", "GroupNormalization", "MeanVarianceNormalization", "parts")
)
def gate_of_a_normalised_half(kind: str) -> onnx.ModelProto:
    """gMLP: one half is needed whole for its statistics, the other goes with what it gates."""
    net = Net(21)
    u, v = net.ops("Split", net.conv(net.stem(6), 6, 16), outputs=2, axis=1, num_outputs=2)
    if kind == "LayerNormalization":
        v = net.op("Transpose", v, perm=[0, 2, 3, 1])
        v = net.op(kind, v, net.positive(8), net.weight(8))
        v = net.op("Transpose", v, perm=[0, 3, 1, 2])
    elif kind == "GroupNormalization":
        v = net.op(kind, v, net.positive(8), net.weight(8), num_groups=1)
    elif kind == "parts":  # as exporters write it for old opsets
        centred = net.op("Sub", v, net.op("ReduceMean", v, net.ints(1)))
        square = net.op("Pow", centred, net.number(2))
        variance = net.op("Add", net.op("ReduceMean", square, net.ints(1)), net.number(1e-5))
        v = net.op("Div", centred, net.op("Sqrt", variance))
        v = net.op("Add", net.op("Mul", v, net.positive(8, 1, 1)), net.weight(8, 1, 1))
    else:
        v = net.op(kind, v, axes=[1])
    return net.head(net.relu(net.conv(net.op("Mul", u, v), 8, 8)), 8)


@topology(0.85)
def group_normalization() -> onnx.ModelProto:
    net = Net(21, ir_version=10)
    x = net.conv(net.stem(8), 8, 8)
    x = net.op("GroupNormalization", x, net.positive(8), net.weight(8), num_groups=2)
    return net.head(net.relu(x), 8)


@topology(0.8)
def group_normalization_over_all() -> onnx.ModelProto:
    """One group: the statistics are taken over what would be cut."""
    net = Net(21, ir_version=10)
    x = net.conv(net.stem(8), 8, 8)
    x = net.op("GroupNormalization", x, net.positive(8), net.weight(8), num_groups=1)
    return net.head(net.relu(net.conv(net.relu(x), 8, 8)), 8)


@topology(0.45)
def mean_variance_normalization() -> onnx.ModelProto:
    """Over channels and positions."""
    net = Net()
    x = net.conv(net.stem(8), 8, 8)
    x = net.op("MeanVarianceNormalization", x, axes=[1, 2, 3])
    return net.head(net.relu(net.conv(net.relu(x), 8, 8)), 8)


@topology(0.4)
def global_response_normalization() -> onnx.ModelProto:
    """ConvNeXt V2: each channel's norm over the norms' mean over the channels."""
    net = Net()
    x = net.op("Transpose", net.conv(net.stem(8), 8, 8), perm=[0, 2, 3, 1])
    norms = net.op("ReduceL2", x, axes=[1, 2], keepdims=1)
    mean = net.op("ReduceMean", norms, axes=[-1], keepdims=1)
    norms = net.op("Div", norms, net.op("Add", mean, net.number(1e-6)))
    y = net.op("Add", net.op("Mul", net.op("Mul", x, norms), net.weight(8)), net.weight(8))
    x = net.op("Transpose", net.op("Add", x, y), perm=[0, 3, 1, 2])
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.8)
def computed_shape() -> onnx.ModelProto:
    """Shape, Gather, Concat, Reshape, as exporters write it; the height is not known."""
    net = Net()
    x = net.conv(net.stem(8, net.input("N", 3, "H", SIZE)), 8, 8)
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    x = net.op("Reshape", x, net.op("Concat", batch, net.ints(8, -1), axis=0))
    return net.model(net.gemm(net.op("ReduceMean", x, axes=[2], keepdims=0), 8, CLASSES))


@topology(0.25, captured=("output", "weight", "own"))
def subgraph(captured: str) -> onnx.ModelProto:
    """A branch of If reads a tensor, or a weight, of the graph around it, or has one of its own."""
    net = Net()
    x = net.stem(8)
    y = net.conv(x, 8, 8)
    weight = net.weight(8, 8, 3, 3)
    z = net.op("Conv", y, weight, pads=[1, 1, 1, 1])
    read = "own" if captured == "own" else weight
    inside = (
        helper.make_node("Sigmoid", [z], ["then"])
        if captured == "output"
        else helper.make_node("Conv", [z, read], ["then"], pads=[1, 1, 1, 1])
    )
    shape = ["N", 8, SIZE, SIZE]
    branches = [
        helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        )
        for name, node in (("then", inside), ("else", helper.make_node("Neg", [z], ["else"])))
    ]
    if captured == "own":
        net.weight(8, 8, 3, 3, stem="own")
        branches[0].initializer.append(net.initializers.pop())
        branches[0].initializer[0].name = "own"
    flag = net.op("Greater", net.op("ReduceMax", x, keepdims=0), net.number(0.5))
    z = net.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    return net.head(net.relu(net.conv(z, 8, 8)), 8)


@topology(0.35, captured=("tensor", "weight"))
def loop(captured: str) -> onnx.ModelProto:
    """Its body reads a tensor, or a weight, of the graph around it, three times."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    y = net.gemm(x, 10, 8)
    weight = net.weight(8, 8)
    z = net.op("MatMul", net.op("Tanh", y), weight)
    body = (
        helper.make_node("Add", ["state", z], ["next"])
        if captured == "tensor"
        else helper.make_node("MatMul", ["state", weight], ["next"])
    )
    graph = helper.make_graph(
        [body, helper.make_node("Identity", ["condition"], ["again"])],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 8]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", 8]),
        ],
    )
    true = net.constant(np.array(True))
    z = net.op("Loop", net.ints(3), true, z, body=graph)
    return net.model(net.gemm(net.relu(net.gemm(z, 8, 10)), 10, CLASSES))


@topology(0.75)
def scan() -> onnx.ModelProto:
    """A running sum over positions, with a weight of the graph around it."""
    net = Net()
    x = net.relu(net.op("MatMul", net.input(SIZE, 4, 7), net.weight(7, 10)))
    x = net.op("MatMul", x, net.weight(10, 8))
    weight = net.weight(8)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["each", weight], ["scaled"]),
            helper.make_node("Add", ["state", "scaled"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 8]) for n in ("state", "each")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 8]) for n in ("next", "out")],
    )
    _, y = net.ops("Scan", net.weight(4, 8), x, outputs=2, body=graph, num_scan_inputs=1)
    y = net.relu(net.op("MatMul", y, net.weight(8, 10)))
    return net.model(net.op("MatMul", y, net.weight(10, CLASSES)))


@topology(0.85)
def shape_used_in_a_subgraph() -> onnx.ModelProto:
    """A branch reads the same target shape: it must stay what it was for the branch."""
    net = Net()
    x = net.input(2, 3, SIZE, SIZE)
    shape = net.ints(2, 8, 36)
    y = net.op("ReduceMean", net.op("Reshape", net.stem(8, x), shape), axes=[2], keepdims=0)
    logits = net.gemm(y, 8, CLASSES)
    total = helper.make_node("ReduceSum", [shape], ["sum"], keepdims=1)
    cast = helper.make_node("Cast", ["sum"], ["then"], to=TensorProto.FLOAT)
    other = helper.make_node("Constant", [], ["else"], value_floats=[1.0])
    branches = [
        helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])]
        )
        for name, nodes in (("then", [total, cast]), ("else", [other]))
    ]
    flag = net.op("Greater", net.op("ReduceMax", x, keepdims=0), net.number(0.5))
    scale = net.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    return net.model(net.op("Mul", logits, scale))


@topology(0.9)
def local_function() -> onnx.ModelProto:
    """A function of the model's own."""
    return _with_function([helper.make_node("Mul", ["a", "s"], ["b"])])


@topology(0.85)
def local_function_with_a_weight() -> onnx.ModelProto:
    """The same, with a weight inside it."""
    values = np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(8, 1, 1)
    own = numpy_helper.from_array(values, "own")
    return _with_function(
        [
            helper.make_node("Constant", [], ["w"], value=own),
            helper.make_node("Mul", ["s", "w"], ["scaled"]),
            helper.make_node("Mul", ["a", "scaled"], ["b"]),
        ]
    )


def _with_function(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.stem(8), 8, 8)
    x = net.op("Gate", x, domain="local")
    model = net.head(net.conv(net.relu(net.conv(x, 8, 8)), 8, 8), 8)
    nodes = [helper.make_node("Sigmoid", ["a"], ["s"]), *nodes]
    opsets = [helper.make_opsetid("", net.opset)]
    model.functions.append(helper.make_function("local", "Gate", ["a"], ["b"], nodes, opsets))
    return model
