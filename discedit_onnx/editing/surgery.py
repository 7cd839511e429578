"""Applies a plan to a model. Dumb and exact: what the plan does not name stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph.view import infer_shapes, weight_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .plan import Plan, Rewrite

DATA_FIELDS = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
)  # fmt: skip


def apply(proto: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The edited model; the given one is not changed.

    Parameters
    ----------
    proto
        The model that the plan was made for.
    plan
        What to change.

    Returns
    -------
    onnx.ModelProto
        A copy with the plan's changes, or `proto` itself where the plan is empty.
    """
    if plan.empty:
        return proto
    edited = onnx.ModelProto()
    edited.CopyFrom(proto)
    tensors = weight_tensors(edited)
    for zero in plan.zeros:
        array = numpy_helper.to_array(tensors[zero.tensor]).copy()
        array[(slice(None),) * zero.axis + (list(zero.indices),)] = 0
        store(tensors[zero.tensor], array)
    for cut in plan.cuts:
        array = numpy_helper.to_array(tensors[cut.tensor])
        store(tensors[cut.tensor], np.delete(array, cut.indices, cut.axis))
    _rewrite_all(edited, plan.rewrites)
    if plan.cuts:
        _refresh_inputs(edited, tensors)
        _refresh_shapes(edited, tensors)
    return edited


def store(tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
    """Give a tensor new values, and leave its name, type and notes."""
    fresh = numpy_helper.from_array(np.ascontiguousarray(array))
    for name in (*DATA_FIELDS, "dims"):
        tensor.ClearField(name)
    tensor.dims.extend(array.shape)
    tensor.raw_data = fresh.raw_data


def _rewrite_all(model: onnx.ModelProto, rewrites: tuple[Rewrite, ...]) -> None:
    nodes = {output: node for node in model.graph.node for output in node.output}
    readers = Counter(_reads(model.graph))
    for rewrite in rewrites:
        node = nodes[rewrite.node]
        if isinstance(rewrite.place, str):
            _rewrite_attribute(node, rewrite)
        else:
            _rewrite_input(model, node, rewrite, readers)


def _rewrite_attribute(node: onnx.NodeProto, rewrite: Rewrite) -> None:
    for attribute in node.attribute:
        if attribute.name == rewrite.place:
            if rewrite.element is None:
                attribute.i = rewrite.value
            else:
                attribute.ints[rewrite.element] = rewrite.value


def _rewrite_input(
    model: onnx.ModelProto, node: onnx.NodeProto, rewrite: Rewrite, readers: Counter[str]
) -> None:
    """Change one number of a constant, in a private copy if anyone else reads it."""
    position = int(rewrite.place)
    name = node.input[position]
    tensors = weight_tensors(model)
    source = _constant(model, name, tensors)
    if readers[name] > 1 or name not in tensors:
        copy = model.graph.initializer.add()
        copy.CopyFrom(source)
        copy.name = f"{name}.{node.output[0]}"
        if model.ir_version < 4:  # up to there, initializers are graph inputs too
            info = helper.make_tensor_value_info(copy.name, copy.data_type, copy.dims)
            model.graph.input.append(info)
        readers[name] -= 1
        readers[copy.name] = 1
        node.input[position] = copy.name
        source = copy
    array = numpy_helper.to_array(source).copy()
    array.reshape(-1)[rewrite.element or 0] = rewrite.value
    store(source, array)


def _constant(
    model: onnx.ModelProto, name: str, tensors: dict[str, onnx.TensorProto]
) -> onnx.TensorProto:
    """What `View.constant` reads, as a tensor."""
    while name not in tensors:
        (node,) = (node for node in model.graph.node if name in node.output)
        if node.op_type == "Constant":
            (numbers,) = (helper.get_attribute_value(a) for a in node.attribute)
            return numpy_helper.from_array(np.array(numbers))
        name = node.input[0]
    return tensors[name]


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node reads, in subgraphs too, and the graph's outputs."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _reads(subgraph)


def _refresh_inputs(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    """Initializers that are graph inputs too (before IR version 4) say their shape there."""
    for info in model.graph.input:
        if info.name in tensors:
            _set_shape(info, [str(length) for length in tensors[info.name].dims])


def _refresh_shapes(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    """Bring the shapes that the model notes for its tensors up to date.

    What can't be inferred was not cut either: the analysis knows no other shapes.
    """
    if not model.graph.value_info:
        return
    inferred = {info.name: info for info in infer_shapes(model).graph.value_info}
    for info in model.graph.value_info:
        if info.name in tensors:
            _set_shape(info, [str(length) for length in tensors[info.name].dims])
        elif info.name in inferred:
            dims = inferred[info.name].type.tensor_type.shape.dim
            _set_shape(info, [str(d.dim_value) if d.HasField("dim_value") else "" for d in dims])


def _set_shape(info: onnx.ValueInfoProto, lengths: list[str]) -> None:
    """Overwrite the known lengths that differ; names of unknown ones stay."""
    for dim, length in zip(info.type.tensor_type.shape.dim, lengths, strict=False):
        if length and dim.HasField("dim_value"):
            dim.dim_value = int(length)
