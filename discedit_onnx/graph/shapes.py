"""Shapes and small constants of all tensors, through shape arithmetic too.

Exporters compute shapes inside the graph (Shape -> Gather -> Concat -> Reshape) and leave the batch
open. Here the open lengths of the inputs are given numbers, twice and differently, and each time
shapes and small values are followed through the graph, node by node. What comes out the same both
times is fixed; what differs is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper

from ..model import DEFAULT_DOMAINS
from .fused import DOMAIN as FUSED
from .fused import infer as infer_fused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Shape = tuple[int | None, ...]

CLASSICAL = "ai.onnx.ml"
"""The domain of what comes before a network in a pipeline of scikit-learn."""

SHAPE_ARITHMETIC = frozenset(
    ("Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand",
     "Floor", "Gather", "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not",
     "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
     "ScatterND", "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where")
)  # fmt: skip
"""Operators that are evaluated where all their inputs are known and small."""

NOT_INFERRED = frozenset(
    (("", "GroupNormalization"), (CLASSICAL, "Imputer"), (CLASSICAL, "Normalizer"),
     (CLASSICAL, "Scaler"))
)  # fmt: skip
"""Operators that onnx 1.23 infers nothing of; what they make has the shape of their first input."""

FEW = 512
"""Elements up to which a value is followed."""

BATCHES = (7, 11)
"""Lengths that an open first axis is given."""
STEP = 64
"""Other open lengths are multiples of this, so that strided and upsampled maps fit together."""


@dataclass(frozen=True)
class Facts:
    """What is known of the tensors of a graph.

    Attributes
    ----------
    types
        Name to element type.
    shapes
        Name to shape, open lengths as None. Tensors of unknown rank are absent.
    lengths
        Name to both shapes that it had when open lengths were given numbers.
    values
        Name to value, for small tensors that are the same for all open lengths.
    pairs
        Name to both values that a small tensor had.
    numbers
        Small tensors that are computed from shapes and constants alone.
    """

    types: dict[str, int]
    shapes: dict[str, Shape]
    lengths: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    values: dict[str, NDArray[Any]]
    pairs: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    numbers: frozenset[str]


def trace(proto: onnx.ModelProto, known: Mapping[str, TensorProto]) -> Facts:
    """Follow shapes and small values through a graph.

    Parameters
    ----------
    proto
        A model; the bytes of its large weights are not needed.
    known
        Constants, by the name that the graph reads.
    """
    first, second = (_Run(proto, known, number) for number in (0, 1))
    lengths = {
        name: (shape, second.shapes[name])
        for name, shape in first.shapes.items()
        if name in second.shapes and len(second.shapes[name]) == len(shape)
    }
    shapes = {
        name: tuple(a if a == b and a > 0 else None for a, b in zip(*both, strict=True))
        for name, both in lengths.items()
    }
    pairs = {
        name: (value, second.values[name])
        for name, value in first.values.items()
        if name in second.values
    }
    values = {name: a for name, (a, b) in pairs.items() if np.array_equal(a, b)}
    numbers = frozenset(first.derived & second.derived)
    return Facts(first.element_types, shapes, lengths, values, pairs, numbers)


class _Run:
    """One pass, with numbers in place of open lengths."""

    def __init__(
        self, proto: onnx.ModelProto, known: Mapping[str, TensorProto], number: int
    ) -> None:
        self.known = known
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, NDArray[Any]] = {}
        self.derived: set[str] = set()
        self._noted = {info.name: info.type for info in proto.graph.value_info}
        self._noted |= {info.name: info.type for info in proto.graph.output}
        self._opsets = {_plain(o.domain): o.version for o in proto.opset_import}
        self._imports = list(proto.opset_import)
        lengths = _Lengths(number)
        for info in proto.graph.input:
            self.types[info.name] = lengths.fill(info.name, info.type)
        for name, tensor in known.items():
            self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        for node in proto.graph.node:
            self._visit(node)
        self.element_types = {n: t.tensor_type.elem_type for n, t in self.types.items()}
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(dim.dim_value for dim in kind.tensor_type.shape.dim)
            for name, kind in self.types.items()
            if kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")
        }

    def _visit(self, node: onnx.NodeProto) -> None:
        if all(name in self.known for name in node.output):
            return  # a Constant node whose value is known
        inputs = [name for name in node.input if name]
        values = {name: value for name in inputs if (value := self._value(name)) is not None}
        self._evaluate(node, inputs, values)
        found = self._infer(node, inputs, values)
        for name, kind in found.items():
            if name in self.values:
                value = self.values[name]
                element = helper.np_dtype_to_tensor_dtype(value.dtype)
                self.types[name] = helper.make_tensor_type_proto(element, value.shape)
            elif name not in self.known:
                self.types[name] = kind

    def _infer(
        self, node: onnx.NodeProto, inputs: list[str], values: Mapping[str, NDArray[Any]]
    ) -> Mapping[str, TypeProto]:
        """Types of the outputs, by onnx, or as the model notes them."""
        types = {name: self.types[name] for name in inputs if name in self.types}
        data = {name: numpy_helper.from_array(value) for name, value in values.items()}
        domain = _plain(node.domain)
        try:
            version = self._opsets[domain]
            if domain == FUSED or not (domain or onnx.defs.has(node.op_type, version, "")):
                return infer_fused(node, types, self._opsets[""])
            schema = onnx.defs.get_schema(node.op_type, version, domain)
            if (domain, node.op_type) in NOT_INFERRED:
                return {node.output[0]: _like_first(types[node.input[0]], schema)}
            if not schema.has_type_and_shape_inference_function:
                return self._infer_function(node, types, data)
            return onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports
            )
        except Exception:  # no schema, a missing type, or inference that fails
            return {name: self._noted[name] for name in node.output if name in self._noted}

    def _infer_function(
        self,
        node: onnx.NodeProto,
        types: Mapping[str, TypeProto],
        data: Mapping[str, TensorProto],
    ) -> Mapping[str, TypeProto]:
        """Operators that are only functions: through their bodies, in a graph of one node."""
        graph = onnx.GraphProto(name="node", node=[node])
        for name, kind in types.items():
            graph.input.append(onnx.ValueInfoProto(name=name, type=kind))
        for name, tensor in data.items():
            tensor.name = name
            graph.initializer.append(tensor)
        model = onnx.ModelProto(ir_version=8, graph=graph, opset_import=self._imports)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        return {info.name: info.type for info in inferred if info.name in node.output}

    def _value(self, name: str) -> NDArray[Any] | None:
        """A small value, constant or computed."""
        if name not in self.values and name in self.known:
            tensor = self.known[name]
            if math.prod(tensor.dims) <= FEW:
                self.values[name] = numpy_helper.to_array(tensor)
        return self.values.get(name)

    def _evaluate(
        self, node: onnx.NodeProto, inputs: list[str], values: Mapping[str, NDArray[Any]]
    ) -> None:
        """Give the outputs their values, where they follow from what is known."""
        if _plain(node.domain):
            return
        if node.op_type == "Shape" and node.input[0] in self.types:
            dims = self.types[node.input[0]].tensor_type.shape.dim
            if all(d.dim_value > 0 for d in dims):
                attributes = {a.name: a.i for a in node.attribute}
                part = slice(attributes.get("start", 0), attributes.get("end"))
                self.values[node.output[0]] = np.array([d.dim_value for d in dims], np.int64)[part]
                self.derived.add(node.output[0])
        elif node.op_type == "Constant":
            self._compute(node, {})
        elif node.op_type in SHAPE_ARITHMETIC:
            known = len(values) == len(set(inputs))
            if known and all(self._is_number(name, value) for name, value in values.items()):
                self._compute(node, values)

    def _is_number(self, name: str, value: NDArray[Any]) -> bool:
        """Whether a value may be part of shape arithmetic, which works on lists: no weight may."""
        listed = value.dtype.kind in "iub" and value.ndim <= 1
        return listed or value.size == 1 or name in self.derived

    def _compute(self, node: onnx.NodeProto, values: Mapping[str, NDArray[Any]]) -> None:
        from onnx.reference import ReferenceEvaluator

        try:
            results = ReferenceEvaluator(node).run(None, dict(values))
        except Exception:  # what the reference can't compute stays unknown
            return
        for name, result in zip(node.output, results, strict=False):
            if isinstance(result, np.ndarray | np.generic) and result.size <= FEW:
                self.values[name] = np.asarray(result)
                self.derived.add(name)


def _plain(domain: str) -> str:
    """The domain, with one name for the default one."""
    return "" if domain in DEFAULT_DOMAINS else domain


def _like_first(kind: TypeProto, schema: onnx.defs.OpSchema) -> TypeProto:
    """The type of an output of the same shape: always float where the schema says so."""
    made = TypeProto()
    made.CopyFrom(kind)
    if schema.outputs[0].type_str == "tensor(float)":
        made.tensor_type.elem_type = TensorProto.FLOAT
    return made


class _Lengths:
    """Numbers for open lengths: equal names get equal numbers."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._named: dict[str, int] = {}

    def fill(self, name: str, kind: TypeProto) -> TypeProto:
        """The type of an input with all lengths known."""
        filled = TypeProto()
        filled.CopyFrom(kind)
        for axis, dim in enumerate(filled.tensor_type.shape.dim):
            if dim.dim_value <= 0:
                symbol = dim.dim_param or f"{name}.{axis}"
                dim.dim_value = self._named.setdefault(symbol, self._next(axis))
        return filled

    def _next(self, axis: int) -> int:
        if axis == 0:
            return BATCHES[self._number]
        return STEP * (2 + 2 * len(self._named) + self._number)
