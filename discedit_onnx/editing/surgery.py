"""Applies a plan to a model. Dumb and exact: what the plan does not name stays as it is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import DataError
from ..graph.view import View, weight_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .plan import Bias, Pick, Plan, Rewrite, Update

DATA_FIELDS = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data",
)  # fmt: skip

BIASED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that can be given a bias."""


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

    Raises
    ------
    DataError
        If new values do not fit the tensor or the node that they are for.
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
    for pick in plan.picks:
        _pick(edited, pick)
    for update in plan.updates:
        _update(tensors, update)
    for bias in plan.biases:
        _add_bias(edited, tensors, bias)
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


def _pick(model: onnx.ModelProto, pick: Pick) -> None:
    """Put a Gather behind a node; it takes over the name, so that readers stay as they are."""
    graph = model.graph
    places = enumerate(graph.node)
    ((index, node),) = [(i, node) for i, node in places if pick.tensor in node.output]
    whole = _new_name(graph, f"{pick.tensor}.whole")
    name = _new_name(graph, f"{pick.tensor}.kept")
    node.output[list(node.output).index(pick.tensor)] = whole
    _add_initializer(model, numpy_helper.from_array(np.array(pick.indices, dtype=np.int64), name))
    gather = helper.make_node("Gather", [whole, name], [pick.tensor], name=name, axis=pick.axis)
    graph.node.insert(index + 1, gather)


def _update(tensors: dict[str, onnx.TensorProto], update: Update) -> None:
    tensor = tensors.get(update.tensor)
    if tensor is None:
        raise DataError(f"new values for {update.tensor}, which is no constant of the model")
    dtype = _dtype(tensor)
    if (dtype, tuple(tensor.dims)) != (update.values.dtype, update.values.shape):
        raise DataError(
            f"new values for {update.tensor} are {update.values.dtype}{update.values.shape}, "
            f"it is {dtype}{tuple(tensor.dims)}"
        )
    store(tensor, update.values)


def _add_bias(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto], bias: Bias) -> None:
    """Give a node its third input, or put an addition behind a matrix product."""
    graph = model.graph
    found = [
        (index, node)
        for index, node in enumerate(graph.node)
        if bias.node in node.output[:1] and node.op_type in BIASED and not any(node.input[2:])
    ]
    if not found:
        raise DataError(f"a bias for {bias.node}, which no layer without a bias makes")
    ((index, node),) = found
    weight = next((tensors[name] for name in node.input[:2] if name in tensors), None)
    dtype = bias.values.dtype if weight is None else _dtype(weight)
    if bias.values.ndim != 1 or bias.values.dtype != dtype:
        raise DataError(f"the bias for {bias.node} is no row of {dtype}")
    name = _new_name(graph, f"{bias.node}.bias")
    _add_initializer(model, numpy_helper.from_array(np.ascontiguousarray(bias.values), name))
    if node.op_type != "MatMul":
        del node.input[2:]
        node.input.append(name)
        return
    # The addition takes over the name, so that readers and the graph's outputs stay as they are.
    node.output[0] = _new_name(graph, f"{bias.node}.product")
    addition = helper.make_node("Add", [node.output[0], name], [bias.node], name=name)
    graph.node.insert(index + 1, addition)


def _dtype(tensor: onnx.TensorProto) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def _new_name(graph: onnx.GraphProto, name: str) -> str:
    """The name itself, or one like it that nothing in the graph has."""
    return _unlike(name, set(names(graph)))


def _unlike(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _add_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:  # up to there, initializers are graph inputs too
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)


def _rewrite_all(model: onnx.ModelProto, rewrites: tuple[Rewrite, ...]) -> None:
    nodes = {output: node for node in model.graph.node for output in node.output}
    readers = Counter(reads(model.graph))
    taken = set(names(model.graph))
    for rewrite in rewrites:
        node = nodes[rewrite.node]
        if isinstance(rewrite.place, str):
            _rewrite_attribute(node, rewrite)
        else:
            _rewrite_input(model, node, rewrite, readers, taken)


def _rewrite_attribute(node: onnx.NodeProto, rewrite: Rewrite) -> None:
    """Give an attribute new numbers, also where it was not written down; or leave it out."""
    numbers = [int(value) for value in rewrite.values]
    found = [attribute for attribute in node.attribute if attribute.name == rewrite.place]
    if not numbers:
        node.attribute.remove(*found)
    elif not found:
        node.attribute.append(helper.make_attribute(str(rewrite.place), numbers))
    elif found[0].type == onnx.AttributeProto.INTS:
        found[0].ints[:] = numbers
    else:
        (found[0].i,) = numbers


def _rewrite_input(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    rewrite: Rewrite,
    readers: Counter[str],
    taken: set[str],
) -> None:
    """Give an input new numbers, in a constant of its own if anyone else reads the old one."""
    position = int(rewrite.place)
    node.input.extend([""] * (position + 1 - len(node.input)))
    name = node.input[position]
    if not rewrite.values:  # it did nothing
        node.input[position] = ""
        return
    array = np.array(rewrite.values, rewrite.dtype).reshape(rewrite.shape)
    own = {t.name: t for t in model.graph.initializer if t.name == name and readers[name] == 1}
    if name in own:
        store(own[name], array)
        return
    new = numpy_helper.from_array(array, _unlike(f"{rewrite.node}.{position}", taken))
    taken.add(new.name)
    _add_initializer(model, new)
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


def names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name of a tensor or a node, in subgraphs too."""
    yield from reads(graph)
    yield from (info.name for info in graph.input)
    yield from (info.name for info in graph.value_info)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from (node.name, *node.output)
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from names(subgraph)


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
