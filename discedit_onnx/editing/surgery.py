"""Applies a plan to a model. Dumb and exact: what the plan does not name stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph.view import View, weight_tensors

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
        _refresh_shapes(edited)
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
    readers = Counter(reads(model.graph))
    for rewrite in rewrites:
        node = nodes[rewrite.node]
        if isinstance(rewrite.place, str):
            _rewrite_attribute(node, rewrite)
        else:
            _rewrite_input(model, node, rewrite, readers)


def _rewrite_attribute(node: onnx.NodeProto, rewrite: Rewrite) -> None:
    for attribute in node.attribute:
        if attribute.name == rewrite.place:
            numbers = [int(value) for value in rewrite.values]
            if attribute.type == onnx.AttributeProto.INTS:
                attribute.ints[:] = numbers
            else:
                (attribute.i,) = numbers


def _rewrite_input(
    model: onnx.ModelProto, node: onnx.NodeProto, rewrite: Rewrite, readers: Counter[str]
) -> None:
    """Give an input new numbers, in a constant of its own if anyone else reads the old one."""
    position = int(rewrite.place)
    name = node.input[position]
    if not rewrite.values:  # it did nothing
        node.input[position] = ""
        return
    array = np.array(rewrite.values, rewrite.dtype).reshape(rewrite.shape)
    own = {t.name: t for t in model.graph.initializer if t.name == name and readers[name] == 1}
    if name in own:
        store(own[name], array)
        return
    new = numpy_helper.from_array(array, f"{rewrite.node}.{position}")
    while readers[new.name]:
        new.name += "_"
    model.graph.initializer.append(new)
    if model.ir_version < 4:  # up to there, initializers are graph inputs too
        info = helper.make_tensor_value_info(new.name, new.data_type, new.dims)
        model.graph.input.append(info)
    readers[name] -= 1
    readers[new.name] = 1
    node.input[position] = new.name


def reads(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node reads, in subgraphs too, and the graph's outputs."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from reads(subgraph)


def _refresh_inputs(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    """Initializers that are graph inputs too (before IR version 4) say their shape there."""
    for info in model.graph.input:
        if info.name in tensors:
            _set_shape(info, [str(length) for length in tensors[info.name].dims])


def _refresh_shapes(model: onnx.ModelProto) -> None:
    """Bring the shapes that the model notes for its tensors up to date.

    What can't be inferred was not cut either: the analysis knows no other shapes.
    """
    if not model.graph.value_info:
        return
    shapes = View(model).shapes
    for info in model.graph.value_info:
        if info.name in shapes:
            _set_shape(info, [str(length or "") for length in shapes[info.name]])


def _set_shape(info: onnx.ValueInfoProto, lengths: list[str]) -> None:
    """Overwrite the known lengths that differ; names of unknown ones stay."""
    for dim, length in zip(info.type.tensor_type.shape.dim, lengths, strict=False):
        if length and dim.HasField("dim_value"):
            dim.dim_value = int(length)
