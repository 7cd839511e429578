"""Constants in one form: what `Constant` nodes hold as numbers or lists becomes a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, helper

if TYPE_CHECKING:
    import onnx

FORMS = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}
"""Attributes with numbers, and what they are as a tensor."""


def hold_tensors(graph: onnx.GraphProto) -> None:
    """Write the numbers of `Constant` nodes as tensors, in place and in subgraphs too.

    A weight may be one of them: all that reads and edits weights knows tensors alone.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                hold_tensors(subgraph)
            if node.op_type != "Constant" or node.domain or attribute.name not in FORMS:
                continue
            numbers = helper.get_attribute_value(attribute)
            shape = (len(numbers),) if isinstance(numbers, list | tuple) else ()
            flat = numbers if shape else [numbers]
            tensor = helper.make_tensor("", FORMS[attribute.name], shape, flat)
            attribute.CopyFrom(helper.make_attribute("value", tensor))
