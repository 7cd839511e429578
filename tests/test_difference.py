"""Two models side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_topologies import random_removal
from topologies import TOPOLOGIES
from topologies.net import Net

from discedit_onnx.difference import Layer, compare_layers
from discedit_onnx.editing.plan import Update, plan_removal
from discedit_onnx.editing.surgery import apply
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.model import Model


def model(proto: onnx.ModelProto) -> Model:
    return Model(proto, Path("model.onnx"))


def test_channels_by_hand():
    net = Net()
    x = net.conv(net.input(), 3, 8)
    x = net.conv(x, 8, 12, group=4)
    x = net.op("ConvTranspose", x, net.weight(12, 2, 2, 2), group=3)
    proto = net.head(x, 6)
    found = [(p.a.op, p.a.inputs, p.a.outputs) for p in compare_layers(model(proto), model(proto))]
    assert found == [("Conv", 3, 8), ("Conv", 8, 12), ("ConvTranspose", 12, 6), ("Gemm", 6, 5)]
    net = Net()
    product = net.model(net.op("MatMul", net.input("N", 4), net.weight(4, 3)))
    (pair,) = compare_layers(model(product), model(product))
    assert pair.same
    assert (pair.a.inputs, pair.a.outputs) == (4, 3)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_model_and_what_is_left_of_it(name):
    coupling = analyse(TOPOLOGIES[name].build())
    before = coupling.view.proto
    assert all(pair.same for pair in compare_layers(model(before), model(before)))
    plan = plan_removal(coupling, random_removal(coupling, 0), "")
    pairs = compare_layers(model(before), model(apply(before, plan)))
    cut = {c.tensor for c in plan.cuts}
    for pair in pairs:
        assert pair.a is not None
        assert pair.b is not None
        assert pair.a.weight == pair.b.weight
        assert pair.same == (pair.a.weight not in cut)
        assert pair.b.inputs <= pair.a.inputs
        assert pair.b.outputs <= pair.a.outputs


def test_new_values_added_and_missing_layers():
    proto = TOPOLOGIES["residual_identity"].build()
    weight = proto.graph.node[0].input[1]
    tensor = next(t for t in proto.graph.initializer if t.name == weight)
    values = np.zeros(tuple(tensor.dims), np.float32)
    from discedit_onnx.editing.plan import Plan

    edited = apply(proto, Plan("", updates=(Update(weight, values),)))
    pairs = compare_layers(model(proto), model(edited))
    assert [pair.changed for pair in pairs] == [True] + [False] * (len(pairs) - 1)
    net = Net()
    other = net.model(net.op("MatMul", net.input("N", 4), net.weight(4, 3, stem="only_here")))
    ours = len(pairs)
    pairs = compare_layers(model(proto), model(other))
    assert len(pairs) == ours + 1
    assert [pair.b is None for pair in pairs] == [True] * ours + [False]
    assert isinstance(pairs[-1].b, Layer)
    assert not any(pair.same for pair in pairs)


def test_other_biases_are_other_values():
    """A refit of biases alone leaves all weights as they were."""
    net = Net()
    proto = net.model(net.relu(net.conv(net.relu(net.conv(net.input(), 3, 6)), 6, 5)))
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    biases = [tensor for tensor in other.graph.initializer if len(tensor.dims) == 1]
    assert biases
    biases[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(biases[0]) + 1, biases[0].name)
    )
    pairs = compare_layers(*(Model(each, Path("m.onnx")) for each in (proto, other)))
    assert [pair.changed for pair in pairs].count(True) == 1
