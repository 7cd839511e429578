"""Constants that are only moved, written as they are read: exporters leave them to the runtime.

A weight behind a Transpose is a weight; but only as an initializer can it be given other values.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from .functions import DEFAULT, all_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

MOVES = ("Identity", "Transpose")
"""Operators that need no other constant to move the elements of one."""


def write_moved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with moved constants in place of the nodes that move them.

    Only where one node reads the constant: otherwise it is shared, and one copy serves all.

    Parameters
    ----------
    proto
        A model; it is not changed.

    Returns
    -------
    onnx.ModelProto
        A copy, or `proto` itself where nothing is moved.
    """
    if next(_moved(proto.graph), None) is None:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    while found := list(_moved(graph)):  # one behind the other, first to last
        for node, tensor in found:
            if node.op_type == "Transpose":
                axes = [list(a.ints) for a in node.attribute if a.name == "perm"]
                values = numpy_helper.to_array(tensor).transpose(*axes)
                tensor.CopyFrom(numpy_helper.from_array(values.copy(), tensor.name))
            tensor.name = node.output[0]
            graph.node.remove(node)
    return copy


def _moved(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Nodes that move an initializer which nothing else reads."""
    outside = {info.name for info in (*graph.input, *graph.output)}
    constants = {t.name: t for t in graph.initializer if t.name not in outside}
    reads = Counter(name for node in all_nodes(graph.node) for name in node.input)
    for node in graph.node:
        if node.op_type not in MOVES or node.domain not in DEFAULT:
            continue
        alone = reads[node.input[0]] == 1 and node.output[0] not in outside
        if node.input[0] in constants and alone:
            yield node, constants[node.input[0]]
