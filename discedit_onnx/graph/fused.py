"""Shapes of the fused operators of ONNX Runtime, of which onnx knows no schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import NodeProto, TypeProto, defs, helper, shape_inference

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN = "com.microsoft"

INFERRED_LIKE = {
    "DequantizeLinear": "DequantizeLinear",
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "QuantizeLinear": "QuantizeLinear",
}
"""Operators that infer what one of the default domain infers."""

LIKE_FIRST = frozenset(
    ("BiasGelu", "FastGelu", "Gelu", "GroupQueryAttention", "LayerNormalization", "QuickGelu",
     "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipLayerNormalization",
     "SkipSimplifiedLayerNormalization")
)  # fmt: skip
"""Operators whose first output has the type of their first input."""

SUMS = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3}
"""Operators that give back the sum of their first inputs too, and where."""


def infer(node: NodeProto, types: Mapping[str, TypeProto], opset: int) -> dict[str, TypeProto]:
    """Types of what a fused operator makes, as far as they follow from its inputs.

    Parameters
    ----------
    node
        Of the domain com.microsoft, or of the default domain without a schema.
    types
        Of its inputs.
    opset
        Of the default domain.

    Raises
    ------
    KeyError
        If the operator, or an input's type, is unknown.
    """
    first = types[node.input[0]]
    if node.op_type in INFERRED_LIKE:
        return _infer_like(node, INFERRED_LIKE[node.op_type], types, opset)
    if node.op_type in LIKE_FIRST:
        if node.op_type == "GroupQueryAttention" and not node.input[1]:
            raise KeyError("queries, keys and values in one tensor")
        outputs = node.output
        same = {0, SUMS.get(node.op_type, 0)}
        return {outputs[i]: first for i in same if i < len(outputs) and outputs[i]}
    width = {"Attention": _attention_width, "MultiHeadAttention": _value_width}[node.op_type]
    lengths = [dim.dim_value for dim in first.tensor_type.shape.dim]
    shape = (*lengths[:2], width(node, types))
    return {node.output[0]: helper.make_tensor_type_proto(first.tensor_type.elem_type, shape)}


def _infer_like(
    node: NodeProto, operator: str, types: Mapping[str, TypeProto], opset: int
) -> dict[str, TypeProto]:
    """What an operator of the default domain infers, with the attributes that it knows."""
    schema = defs.get_schema(operator, opset, "")
    known = [attribute for attribute in node.attribute if attribute.name in schema.attributes]
    inputs = list(node.input[: schema.max_input])
    plain = helper.make_node(operator, inputs, node.output)
    plain.attribute.extend(known)
    swapped = {attribute.name for attribute in node.attribute if attribute.i}
    given = {name: types[name] for name in inputs if name}
    if operator == "MatMul":
        plain.input[:] = ["A", "B"]
        given = {
            name: _swapped(types[source]) if f"trans{name}" in swapped else types[source]
            for name, source in zip("AB", inputs, strict=True)
        }
    return shape_inference.infer_node_outputs(
        schema, plain, given, opset_imports=[helper.make_opsetid("", opset)]
    )


def _swapped(kind: TypeProto) -> TypeProto:
    """The type with its last two axes in the other order."""
    *leading, a, b = (dim.dim_value for dim in kind.tensor_type.shape.dim)
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, (*leading, b, a))


def _attention_width(node: NodeProto, types: Mapping[str, TypeProto]) -> int:
    """Width of the values: the last third of the weight's columns, or what an attribute says."""
    for attribute in node.attribute:
        if attribute.name == "qkv_hidden_sizes" and attribute.ints:
            return int(attribute.ints[2])
    return int(types[node.input[1]].tensor_type.shape.dim[1].dim_value) // 3


def _value_width(node: NodeProto, types: Mapping[str, TypeProto]) -> int:
    """Width of the values, which lie in a tensor of their own."""
    shape = types[node.input[2]].tensor_type.shape.dim
    if len(shape) != 3:
        raise KeyError("keys and values with heads apart")
    return int(shape[2].dim_value)
