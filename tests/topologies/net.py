"""Writes small graphs with seeded random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 5
SIZE = 6
"""Height, width and length of the inputs."""


class Net:
    """A graph in the making; its methods add nodes and give back the names of their outputs.

    Attributes
    ----------
    opset, ir_version
        Of the model.
    dtype
        NumPy type of inputs and weights.
    constants
        Where weights go: "initializer", "node" (Constant nodes) or "input" (initializers that
        are graph inputs too).
    """

    def __init__(
        self,
        opset: int = 17,
        ir_version: int = 8,
        dtype: type[np.generic] = np.float32,
        constants: str = "initializer",
    ) -> None:
        self.opset, self.ir_version, self.dtype = opset, ir_version, np.dtype(dtype)
        self.constants = constants
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self._count = 0

    def name(self, stem: str) -> str:
        """A new name."""
        self._count += 1
        return f"{stem}{self._count}"

    @property
    def element_type(self) -> int:
        """`TensorProto.DataType` of inputs and weights."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    # --- inputs and constants

    def input(self, *shape: int | str, name: str = "x") -> str:
        """A graph input; without a shape, images of 3 channels and any batch."""
        lengths = shape or ("N", 3, SIZE, SIZE)
        self.inputs.append(helper.make_tensor_value_info(name, self.element_type, lengths))
        return name

    def constant(self, array: NDArray[Any], stem: str = "c") -> str:
        """A constant."""
        name = self.name(stem)
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return name
        self.initializers.append(tensor)
        if self.constants == "input":
            info = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            self.inputs.append(info)
        return name

    def weight(self, *shape: int, stem: str = "w") -> str:
        """A random weight, scaled so that products with it keep their size."""
        fan_in = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
        values = self._random.standard_normal(shape) / np.sqrt(fan_in)
        return self.constant(values.astype(self.dtype), stem)

    def positive(self, *shape: int) -> str:
        """Random numbers between a half and one and a half."""
        return self.constant((self._random.random(shape) + 0.5).astype(self.dtype))

    def ints(self, *values: int) -> str:
        """A list of int64."""
        return self.constant(np.array(values, dtype=np.int64), "ints")

    def number(self, value: float) -> str:
        """A single number."""
        return self.constant(np.array(value, dtype=self.dtype))

    # --- nodes

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        node = helper.make_node(
            kind, inputs, names, name=self.name(f"node_{kind}"), domain=domain, **attributes
        )
        self.nodes.append(node)
        return names

    def conv(
        self,
        x: str,
        channels: int,
        filters: int,
        kernel: int = 3,
        group: int = 1,
        bias: bool = True,
        rank: int = 2,
        **attributes: Any,
    ) -> str:
        """Conv that keeps the spatial size."""
        inputs = [x, self.weight(filters, channels // group, *[kernel] * rank)]
        if bias:
            inputs.append(self.weight(filters, stem="b"))
        if group > 1:
            attributes["group"] = group
        return self.op("Conv", *inputs, pads=[kernel // 2] * 2 * rank, **attributes)

    def relu(self, x: str) -> str:
        """Relu."""
        return self.op("Relu", x)

    def norm(self, x: str, channels: int) -> str:
        """BatchNormalization."""
        scale, variance = self.positive(channels), self.positive(channels)
        bias, mean = self.weight(channels), self.weight(channels)
        return self.op("BatchNormalization", x, scale, bias, mean, variance)

    def gemm(self, x: str, inner: int, outer: int) -> str:
        """Gemm with a weight as PyTorch stores it, and a bias."""
        weight, bias = self.weight(outer, inner), self.weight(outer)
        return self.op("Gemm", x, weight, bias, transB=1)

    def stem(self, channels: int = 8, x: str = "") -> str:
        """Input, Conv, Relu."""
        return self.relu(self.conv(x or self.input(), 3, channels))

    def head(self, x: str, channels: int) -> onnx.ModelProto:
        """Global pooling and a Gemm; gives back the model."""
        pooled = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.model(self.gemm(pooled, channels, CLASSES))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model, with what shape inference says of its outputs."""
        graph = helper.make_graph(
            self.nodes,
            "topology",
            self.inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        domains = {node.domain for node in self.nodes} - {""}
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(known)
            if not known.type.tensor_type.HasField("shape"):  # behind what can't be inferred
                shape = ("N", CLASSES)
                output.CopyFrom(helper.make_tensor_value_info(known.name, self.element_type, shape))
        return model
