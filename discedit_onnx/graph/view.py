"""A read-only view of a model's graph: nodes, links, shapes and constants.

The one module that knows onnx-graphsurgeon. The view is made of a skeleton of the model, without
the bytes of its large weights, so that looking at a graph costs neither their memory nor their
time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..functions import inline_functions
from ..model import DEFAULT_DOMAINS
from .shapes import trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

SMALL = 4096
"""Elements up to which a constant is kept in the skeleton: it may be a shape."""

QUANTISED = {
    "ConvInteger": (1,), "DequantizeLinear": (0,), "MatMulInteger": (0, 1), "QGemm": (0, 3),
    "QLinearConv": (3,), "QLinearMatMul": (0, 3),
}  # fmt: skip
"""Operators whose integers stand for numbers, and where they read them."""

SCALES = ("DequantizeLinear", "QuantizeLinear")
"""Operators that scale their first input, and then shift it by a zero point."""

MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that give back the elements of their first input."""

FILLING = (
    dict.fromkeys((*MOVES, "Expand", "Gather", "Slice", "Tile"), slice(1))
    | dict.fromkeys(("Add", "Concat", "Mul", "Sub"), slice(None))
    | {"Where": slice(1, 3)}
)
"""Operators that make zeros of zeros, and which of their inputs must then be zeros."""


@dataclass(frozen=True)
class Node:
    """One node of the main graph.

    Attributes
    ----------
    index
        Its position in `graph.node`.
    op, domain, name
        As in the protobuf; the default domain is "".
    inputs, outputs
        Tensor names; an omitted one is "".
    attributes
        Python values: int, float, str, lists, arrays.
    captured
        Tensors of the main graph that its subgraphs read.
    """

    index: int
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    captured: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people know it by."""
        return self.name or next((name for name in self.outputs if name), f"node {self.index}")


class View:
    """Nodes in topological order, with what surrounds them.

    Attributes
    ----------
    nodes
        In the order of the file.
    inputs, outputs
        Names of the graph's inputs (without initializers) and outputs.
    shapes
        Tensor name to shape; open lengths are None. Tensors of unknown rank are absent.
    facts
        Shapes, types and small values.
    functions
        (domain, name) of local functions that could not be written out.
    initializers
        Name to the tensor proto that holds a weight: an initializer or a Constant node's value.
    producer, consumers
        Tensor name to the node that makes it, and to (node, input position) that read it.
    varying
        Tensors that depend on the graph's inputs.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.opsets = {
            "" if o.domain in DEFAULT_DOMAINS else o.domain: o.version for o in proto.opset_import
        }
        self.initializers = weight_tensors(proto)
        self.functions = {(function.domain, function.name) for function in proto.functions}
        self.inputs = tuple(i.name for i in proto.graph.input if i.name not in self.initializers)
        self.outputs = tuple(o.name for o in proto.graph.output)
        skeleton = _skeleton(proto)
        self.facts = trace(inline_functions(skeleton), self.initializers)
        self.shapes = self.facts.shapes
        self.nodes = tuple(_nodes(skeleton))
        self.producer = {name: node for node in self.nodes for name in node.outputs if name}
        self.consumers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
        self.varying = set(self.inputs)
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    self.consumers[name].append((node, position))
            if not self.varying.isdisjoint((*node.inputs, *node.captured)):
                self.varying.update(filter(None, node.outputs))

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Constants that were learned, see `parameter_tensors`."""
        return frozenset(parameter_tensors(self.proto))

    def rank(self, name: str) -> int | None:
        """Number of axes of a tensor, where it is known."""
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)

    def hides_shapes(self, node: Node) -> bool:
        """Whether lengths of what a node reads are known, but not of what it makes."""

        def known(name: str) -> bool:
            return 0 not in self.facts.lengths.get(name, ((0,),))[0]

        reads, makes = (filter(None, names) for names in (node.inputs, node.outputs))
        return all(map(known, reads)) and not all(map(known, makes))

    def element_type(self, name: str) -> int:
        """`TensorProto.DataType` of a tensor; 0 where it is unknown."""
        return self.facts.types.get(name, 0)

    def origin(self, name: str) -> str | None:
        """The initializer whose elements a tensor holds in some order, if there is one.

        Where it is zero, the tensor is zero: a scale may lie between them, but no zero point.
        """
        while name not in self.initializers:
            node = self.producer.get(name)
            if node is None or node.domain or node.op not in (*MOVES, *SCALES):
                return None
            if node.op in SCALES and not all(map(self.is_zero, node.inputs[2:])):
                return None
            name = node.inputs[0]
        return name

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is filled with zeros, whatever its shape: all that it is made of is."""
        seen: set[str] = set()
        sources = [name]
        while sources:
            name = sources.pop()
            node = self.producer.get(name)
            if name in seen:
                continue
            seen.add(name)
            if node is not None and not node.domain and node.op in FILLING:
                sources += filter(None, node.inputs[FILLING[node.op]])
            elif node is not None and not node.domain and node.op == "ConstantOfShape":
                if np.any(node.attributes.get("value", 0)):
                    return False
            elif (constant := self.constant(name)) is None or np.any(constant):
                return False
        return True

    def constant(self, name: str) -> NDArray[Any] | None:
        """Value of a constant, or of a small tensor that is computed to the same in every run."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        return self.facts.values.get(name)


def is_float(data_type: int) -> bool:
    """Whether a `TensorProto.DataType` is floating point."""
    proto = onnx.TensorProto
    return data_type in (proto.FLOAT, proto.FLOAT16, proto.BFLOAT16, proto.DOUBLE)


def parameter_tensors(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constants that were learned: floating point, or integers that stand for such numbers."""
    quantised = {
        node.input[position]
        for node in proto.graph.node
        for position in QUANTISED.get(node.op_type, ())
    }
    return {
        name: tensor
        for name, tensor in weight_tensors(proto).items()
        if tensor.dims and (is_float(tensor.data_type) or name in quantised)
    }


def parameters_inside(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Learned constants that no rule sees, with what holds them.

    They lie in subgraphs, and in functions that can't be written out.
    """
    for node in proto.graph.node:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                held = f"{node.op_type} {node.name or next(iter(node.output), '')}"
                yield from ((held, tensor) for tensor in _learned(graph.node, graph.initializer))
    for function in proto.functions:
        yield from ((function.name, tensor) for tensor in _learned(function.node, ()))


def _learned(
    nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto]
) -> Iterator[onnx.TensorProto]:
    """Floating-point constants with an axis, also in subgraphs further in."""
    yield from (t for t in initializers if t.dims and is_float(t.data_type))
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.t.dims and is_float(attribute.t.data_type):
                yield attribute.t
            for graph in (attribute.g, *attribute.graphs):
                yield from _learned(graph.node, graph.initializer)


def weight_tensors(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The tensors of all initializers and Constant nodes, by the name that the graph reads."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors[node.output[0]] = attribute.t
    return tensors


def _skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the bytes of large weights."""
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph = skeleton.graph
    graph.name = proto.graph.name
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    for tensor in proto.graph.initializer:
        graph.initializer.append(_lighten(tensor))
    for node in proto.graph.node:
        if node.op_type == "Constant" and any(_elements(a.t) > SMALL for a in node.attribute):
            (large,) = (_lighten(a.t) for a in node.attribute if a.name == "value")
            large.name = node.output[0]
            graph.node.add(op_type="Constant", output=node.output, name=node.name)
            graph.node[-1].attribute.append(onnx.helper.make_attribute("value", large))
        else:
            graph.node.append(node)
    return skeleton


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1


def _lighten(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor itself if it is small, else one of the same name, type and shape, empty."""
    if _elements(tensor) <= SMALL:
        return tensor
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _nodes(model: onnx.ModelProto) -> Iterator[Node]:
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.ERROR  # it writes warnings to standard output
    graph = gs.import_onnx(model)
    for index, node in enumerate(graph.nodes):
        subgraphs = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
        yield Node(
            index=index,
            op=node.op,
            domain="" if (node.domain or "") in DEFAULT_DOMAINS else node.domain,
            name=node.name,
            inputs=tuple(tensor.name for tensor in node.inputs),
            outputs=tuple(tensor.name for tensor in node.outputs),
            attributes={
                name: value.values if isinstance(value, gs.Constant) else value
                for name, value in node.attrs.items()
                # What Constant nodes hold is among the initializers, and may be left out here.
                if not isinstance(value, gs.Graph) and node.op != "Constant"
            },
            captured=tuple({name for subgraph in subgraphs for name in _captures(subgraph, gs)}),
        )


def _captures(graph: Any, gs: Any) -> Iterator[str]:
    """Names that a subgraph reads and does not make itself."""
    own = {tensor.name for tensor in graph.inputs}
    own |= {tensor.name for node in graph.nodes for tensor in node.outputs}
    for tensor in graph.outputs:
        if tensor.name not in own:
            yield tensor.name
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.name and tensor.name not in own:
                yield tensor.name
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from (name for name in _captures(value, gs) if name not in own)
