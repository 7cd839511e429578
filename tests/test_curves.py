"""Saliency by least squares: finite, ordered inside groups, dearer where outputs suffer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from topologies import TOPOLOGIES
from topologies.net import SIZE, Net

from discedit_onnx.calibration.opening import open_data
from discedit_onnx.editing.plan import Plan, Update
from discedit_onnx.editing.refit import curves
from discedit_onnx.editing.refit.batches import gather_batches
from discedit_onnx.editing.refit.curves import least_squares
from discedit_onnx.editing.refit.layers import find_layers
from discedit_onnx.editing.refit.outputs import Outputs
from discedit_onnx.editing.verify import random_feeds
from discedit_onnx.graph.cost import MacCount, ParameterCount
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.graph.view import View
from discedit_onnx.model import load
from discedit_onnx.scoring.weights import magnitude

SAMPLES = Path(__file__).parents[1] / "sample_models"
RUNNABLE = [name for name, topology in TOPOLOGIES.items() if topology.runnable]
ORDERED = (
    "residual_identity",
    "conv_grouped[groups=2]",
    "dense_block",
    "conv_chain[bias=True,opset=11]",
)


def feeds(proto, count=5, rows=16):
    return [random_feeds(View(proto), seed, rows)[0] for seed in range(count)]


def saliency(proto, **options):
    coupling = analyse(proto)
    batches = feeds(proto)
    cost = ParameterCount(coupling)
    found = least_squares(coupling, cost, batches[:3], batches[3:], device="cpu", **options)
    return coupling, found


@pytest.mark.parametrize("part", range(4))
def test_every_kind_of_graph_gets_numbers(part):
    """Groups without a layer that consumes them, too; one component of each can't go."""
    for name in RUNNABLE[part::16]:
        coupling, found = saliency(TOPOLOGIES[name].build())
        assert found.shape == (coupling.size,)
        assert not np.isnan(found).any(), name
        assert (found >= 0).all(), name
        for group in coupling.groups:
            assert np.isinf(found[group.components]).sum() == 1, name


@pytest.mark.parametrize("name", ["scalar_input", "unary[kind=Exp]", "flatten_after_channels"])
def test_odd_inputs_and_numbers_that_overflow(name):
    _, found = saliency(TOPOLOGIES[name].build())
    assert not np.isnan(found).any()


@pytest.mark.parametrize("part", range(4))
def test_models_are_run_from_where_they_differ(part, monkeypatch):
    """What lies before the first node that a group changes is computed once, to the same end."""
    for name in RUNNABLE[part + 4 :: 16]:
        _, found = saliency(TOPOLOGIES[name].build())
        with monkeypatch.context() as patch:
            patch.setattr(Outputs, "advance", lambda *_: None)
            _, whole = saliency(TOPOLOGIES[name].build())
        np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ORDERED)
def test_inside_a_group_the_order_is_that_of_elimination(name, monkeypatch):
    """Also among components that the convex curve counts alike: sorting must not mix them."""
    orders = []
    real = curves._eliminated

    def spy(*arguments):
        orders.append(real(*arguments))
        return orders[-1]

    monkeypatch.setattr(curves, "_eliminated", spy)
    coupling, found = saliency(TOPOLOGIES[name].build())
    begins = [curves._begin(coupling, group) for group in coupling.groups]
    places = np.argsort(begins, kind="stable")
    for group, done in zip([coupling.groups[place] for place in places], orders, strict=True):
        ranked = np.argsort(found[group.components], kind="stable")
        np.testing.assert_array_equal(ranked[:-1], done.order)
        assert (np.diff(found[group.components][ranked][:-1]) > 0).all()


def with_copies(proto, weight, count):
    """The first filters of a weight are one filter again and again."""
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            values = numpy_helper.to_array(tensor).copy()
            values[:count] = values[0]
            tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return proto


def test_copies_go_first():
    """Of a filter that is there five times, four are missed by nobody."""
    net = Net()
    weight = net.weight(8, 3, 3, 3)
    hidden = net.relu(net.op("Conv", net.input(), weight, pads=[1] * 4))
    proto = with_copies(net.head(net.relu(net.conv(hidden, 8, 6)), 6), weight, 5)
    coupling, found = saliency(proto)
    (block,) = (b for b in coupling.blocks if (b.tensor, b.axis) == (weight, 0))
    filters = coupling.of(np.arange(block.start, block.stop))
    ranked = filters[np.argsort(found[filters], kind="stable")]
    assert set(ranked[:4].tolist()) < set(filters[:5].tolist())
    assert found[ranked[3]] < 0.05 * found[ranked[5]]


def test_flattened_maps_are_one_block_of_features():
    """Flatten before a Gemm: a channel is as many features as it has positions."""
    net = Net()
    hidden = net.relu(net.conv(net.input(), 3, 6))
    dense = net.op("Flatten", hidden)
    proto = net.model(net.gemm(dense, 6 * SIZE * SIZE, 5))
    coupling = analyse(proto)
    (group,) = coupling.groups
    (consumer,) = curves._consumers(coupling, group, find_layers(coupling.view))
    places = np.arange(6 * SIZE * SIZE).reshape(6, -1)
    np.testing.assert_array_equal(consumer.blocks[consumer.of], places)
    _, found = saliency(proto)
    assert np.isfinite(found[group.components]).sum() == 5


def test_a_group_that_no_layer_reads_is_ordered_by_size():
    """A grouped convolution makes no regression for a group: the size of the weights decides."""
    coupling, found = saliency(TOPOLOGIES["conv_grouped[groups=2]"].build())
    layers = find_layers(coupling.view)
    alone = [g for g in coupling.groups if not curves._consumers(coupling, g, layers)]
    assert alone
    size = magnitude(coupling, 2)
    for group in alone:
        ranked = group.components[np.argsort(found[group.components], kind="stable")]
        assert (np.diff(size[ranked]) >= 0).all()


def test_what_another_model_lost_already_is_not_counted_again():
    """Later rounds aim at the dense model: their curves start at the error that is there."""
    proto = TOPOLOGIES["residual_identity"].build()
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    name = max(proto.graph.initializer, key=lambda t: len(t.raw_data)).name
    for tensor in other.graph.initializer:
        if tensor.name == name:
            values = (numpy_helper.to_array(tensor) * 3).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    batches = feeds(proto)
    outputs = Outputs(View(proto), other, batches, "cpu")
    assert outputs.before > 0
    assert outputs.error(Plan("", updates=(Update(name, values),))) == 0
    assert Outputs(View(proto), None, batches, "cpu").before == 0
    _, found = saliency(proto, aim=other)
    assert (found >= 0).all()


@pytest.mark.parametrize("name", ["residual_identity", "residual_projection"])
def test_only_what_lies_between_two_layers_counts_as_before_where_these_mend_it(name):
    """Others count more: a spine, and what two layers read, or the head alone."""
    proto = TOPOLOGIES[name].build()
    coupling, alone = saliency(proto)
    _, apart = saliency(proto, apart=True)
    inner = [between_two_layers(coupling, group) for group in coupling.groups]
    assert any(inner)
    assert not all(inner)
    for group, mended in zip(coupling.groups, inner, strict=True):
        times = 1.0 if mended else curves.APART
        own = group.components[np.isfinite(alone[group.components])]
        np.testing.assert_allclose(apart[own], times * alone[own], rtol=1e-6)


def between_two_layers(coupling, group):
    """One convolution gives its channels, and one alone reads them."""
    makers, readers = (
        {
            b.tensor
            for b in coupling.blocks
            if b.axis == axis
            and len(coupling.view.initializers[b.tensor].dims) == 4
            and set(coupling.of(np.arange(b.start, b.stop)).tolist()) & set(group.components)
        }
        for axis in (0, 1)
    )
    return len(makers) == len(readers) == 1


@pytest.mark.parametrize("count", [ParameterCount, MacCount])
def test_heads_and_neurons_of_a_transformer(count):
    model = load(SAMPLES / "fashion_vit.onnx")
    data = open_data(model, SAMPLES / "fashion_mnist" / "calibration", num_samples=24)
    batches = gather_batches(data)
    coupling = analyse(model.proto)
    found = least_squares(
        coupling, count(coupling), batches.choose, batches.judge, device="cpu"
    )  # fmt: skip
    assert np.isfinite(found).sum() == coupling.size - len(coupling.groups)
    assert (found >= 0).all()
