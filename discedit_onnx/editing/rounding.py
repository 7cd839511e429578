"""Models without the rounding of their activations, so that two of them can be compared.

Between quantised layers a sum that falls on one side of a half or on the other, by the order in
which it was added up, moves an output by a whole step. What an edit did shows where nothing can.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import onnx

from ..graph.view import weight_tensors
from .surgery import reads

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose activations are scaled there and back, and neither rounded nor cut off.

    Parameters
    ----------
    model
        Any model; itself is given back where nothing is rounded between layers.

    Returns
    -------
    onnx.ModelProto
        Pairs of QuantizeLinear and DequantizeLinear with one scale are divisions and products;
        others stay as they are, and so do quantised weights.
    """
    if all(node.op_type != QUANTISE for node in model.graph.node):
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    tensors = weight_tensors(plain)
    single = {name for name, tensor in tensors.items() if list(tensor.dims) in ([], [1])}
    times = Counter(reads(plain.graph))  # in subgraphs too, and as outputs
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in plain.graph.node:
        for name in node.input:
            readers[name].append(node)
    scaled = set()
    for node in [node for node in plain.graph.node if node.op_type == QUANTISE]:
        back = readers[node.output[0]]
        alone = times[node.output[0]] == len(back)
        if alone and node.input[0] not in tensors and _is_pair(node, back, single):
            scaled.add(node.output[0])
            _replace(node, "Div")
            for part in back:
                _replace(part, "Mul")
    # What is said of these is that they are integers.
    said = [info for info in plain.graph.value_info if info.name not in scaled]
    del plain.graph.value_info[:]
    plain.graph.value_info.extend(said)
    return plain


def _is_pair(node: onnx.NodeProto, readers: list[onnx.NodeProto], single: set[str]) -> bool:
    """Whether all that read a node scale back what it did, by single numbers."""
    undone = bool(readers) and all(reader.op_type == DEQUANTISE for reader in readers)
    return undone and all(part.input[1] in single for part in (node, *readers))


def _replace(node: onnx.NodeProto, operator: str) -> None:
    node.op_type, node.domain = operator, ""
    del node.input[2:]
    del node.attribute[:]
