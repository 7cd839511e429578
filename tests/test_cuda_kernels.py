"""What is added to a graph has a kernel on CUDA: else whole feature maps go to the CPU and back."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import classifier

from discedit_onnx.calibration.augment import augment
from discedit_onnx.calibration.taps import FEATURES, Tap

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNELS: dict[str, set[int]] = {
    "AveragePool": {11, 19, 22},
    "Cast": {9, 13, 19, 21, 23, 24, 25},
    "Concat": {11, 13},
    "Constant": {11, 12, 13, 19, 21, 23, 24, 25},
    "ConstantOfShape": {9, 20, 21, 23, 24, 25},
    "Div": {7, 13, 14},
    "Equal": {11, 13, 19},
    "Flatten": {11, 13, 21, 23, 24, 25},
    "Gather": {11, 13},
    "GlobalAveragePool": {1, 22},
    "GlobalMaxPool": {1, 22},
    "HardSigmoid": {6, 22},
    "Identity": {1, 13, 14, 16, 19, 21, 23, 24, 25},
    "If": {11, 13, 16, 19, 21, 23, 24, 25},
    "MatMul": {9, 13},
    "Max": {8, 12, 13},
    "MaxPool": {11, 12},  # and not 22
    "Mul": {7, 13, 14},
    "ReduceMax": {11, 12, 13, 18, 20},
    "ReduceMean": {11, 13, 18},
    "Reshape": {5, 13, 14, 19, 21, 23, 24, 25},
    "Shape": {1, 13, 15, 19, 21, 23, 24, 25},
    "Size": {1, 13, 19, 21, 23, 24, 25},
    "Slice": {11, 13},
    "Sub": {7, 13, 14},
    "Transpose": {1, 13, 21, 23, 24, 25},
    "Where": {9, 16},
}
"""Versions of operators that ONNX Runtime 1.31.1 has kernels of for CUDA, of opsets 11 to 26, for
float32 (Cast: from float16, bfloat16 and double too). Found by where a session of one such node
puts it, with stand-ins for NVIDIA's libraries: no GPU was at hand.

A kernel is for the versions that it names: a new version of an operator has none until ONNX
Runtime says so, though nothing about it may have changed but the types that it takes."""

LAST = 26
MAPS = (Tap("h1", 1, 4, 4, stride=2, product_stride=3), Tap("pooled", 1, 5, 2))
TOKENS = (Tap("s", 2, 4, 3), Tap("s", 1, 30, 3))


def with_tokens(opset: int) -> onnx.ModelProto:
    """Also a sequence `s` of 30 tokens, and a mask for it."""
    model = classifier(opset)
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [0, 30, 4])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Transpose", ["h1"], ["t"], perm=[0, 2, 3, 1]))
    model.graph.node.append(helper.make_node("Reshape", ["t", "shape"], ["s"]))
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["N", 30])
    model.graph.input.append(mask)
    return model


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


@pytest.mark.parametrize("opset", range(11, min(LAST, onnx.defs.onnx_opset_version()) + 1))
def test_all_that_is_added_has_a_kernel_on_cuda(opset):
    for (model, taps), padded in itertools.product(
        ((classifier(opset), MAPS), (with_tokens(opset), TOKENS)), (False, True)
    ):
        added = augment(model, taps, FEATURES, second=taps, padded=padded, scores="logits")
        there = {node.SerializeToString() for node in model.graph.node}
        for node in nodes_of(added.graph):
            if node.SerializeToString() not in there:
                version = onnx.defs.get_schema(node.op_type, opset).since_version
                assert version in KERNELS[node.op_type], node
