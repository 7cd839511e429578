"""Where weights live, and what else differs from file to file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from .net import CLASSES, SIZE, Net
from .registry import topology


@topology(0.95, constants=("node", "input"))
def weights_kept_elsewhere(constants: str) -> onnx.ModelProto:
    """In Constant nodes, or in initializers that are graph inputs too, as IR version 3 asks."""
    net = Net(9, ir_version=3, constants=constants)
    shape = net.ints(-1, 8, SIZE, SIZE)
    x = net.op("Reshape", net.op("Flatten", net.stem(8)), shape)
    x = net.op("Reshape", net.op("Flatten", net.conv(x, 8, 8)), shape)
    return net.head(net.relu(net.conv(x, 8, 8)), 8)


@topology(0.95)
def large_constant_nodes() -> onnx.ModelProto:
    """So large that the analysis looks at them without their bytes."""
    net = Net(constants="node")
    x = net.op("Flatten", net.stem(8))
    return net.model(net.gemm(net.relu(net.gemm(x, 8 * SIZE * SIZE, 16)), 16, CLASSES))


@topology(0.85)
def nodes_without_names() -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.stem(8), 8, 8, group=4))
    model = net.head(net.conv(x, 8, 8), 8)
    for node in model.graph.node:
        node.ClearField("name")
    return model


@topology(0.9)
def explicit_default_domain() -> onnx.ModelProto:
    """The default domain by its other name."""
    net = Net()
    model = net.head(net.relu(net.norm(net.conv(net.stem(8), 8, 8), 8)), 8)
    model.opset_import[0].domain = "ai.onnx"
    return model


@topology(0.85, constants=("initializer", "node"))
def half_precision(constants: str) -> onnx.ModelProto:
    net = Net(dtype=np.float16, constants=constants)
    x = net.relu(net.conv(net.stem(8), 8, 8, group=4))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9)
def double_precision() -> onnx.ModelProto:
    net = Net(dtype=np.float64)
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    return net.model(net.gemm(net.op("Sigmoid", net.gemm(x, 10, 12)), 12, CLASSES))


@topology(0.95)
def mixed_precision() -> onnx.ModelProto:
    """Half inside, single at both ends."""
    net = Net()
    x = net.op("Cast", net.stem(8), to=TensorProto.FLOAT16)
    net.dtype = np.dtype(np.float16)
    x = net.op("Cast", net.relu(net.conv(x, 8, 8)), to=TensorProto.FLOAT)
    net.dtype = np.dtype(np.float32)
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.9)
def stale_value_info() -> onnx.ModelProto:
    """Shapes of all tensors, of weights too, are noted in the file."""
    net = Net()
    model = net.head(net.relu(net.conv(net.stem(8), 8, 8)), 8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        inferred.graph.value_info.append(info)
    return inferred


@topology(0.85)
def two_inputs() -> onnx.ModelProto:
    """An image and a vector of facts about it."""
    net = Net()
    facts = net.input("N", 4, name="facts")
    x = net.op("GlobalAveragePool", net.stem(8))
    x = net.op("Concat", net.op("Flatten", x), net.relu(net.gemm(facts, 4, 6)), facts, axis=1)
    return net.model(net.gemm(net.relu(net.gemm(x, 18, 10)), 10, CLASSES))


@topology(0.9)
def scalar_input() -> onnx.ModelProto:
    """A number comes first, then the image."""
    net = Net()
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [])
    net.inputs.append(scale)
    x = net.op("Sigmoid", net.op("Mul", net.stem(8), "scale"))
    return net.head(net.conv(x, 8, 8), 8)


@topology(0.0)
def nothing_removable() -> onnx.ModelProto:
    """One layer between input and output."""
    net = Net()
    return net.model(net.gemm(net.input("N", 7), 7, CLASSES))


@topology(0.0)
def no_parameters() -> onnx.ModelProto:
    net = Net()
    return net.model(net.op("Softmax", net.op("Flatten", net.input()), axis=-1))
