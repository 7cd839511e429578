"""How layers read the channels of a tap, through whatever moves them on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import discedit_onnx as dx
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.editing.forgetting.reads import read_of
from discedit_onnx.editing.refit.layers import find_layers
from discedit_onnx.graph.view import View

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.model import Model

CHANNELS, SIDE, HIDDEN, CLASSES = 5, 3, 12, 4
ORDERS = {
    "channels first": ([], [1, 2, 3]),
    "channels last": ([("Transpose", {"perm": [0, 2, 3, 1]})], [2, 3, 1]),
    "rows last": ([("Transpose", {"perm": [0, 3, 1, 2]})], [3, 1, 2]),
}


def flattened(order: str, rng: np.random.Generator) -> onnx.ModelProto:
    """Convolution, map flattened in some order, hidden layer, head; always the same function."""
    moves, axes = ORDERS[order]
    positions = np.arange(CHANNELS * SIDE * SIDE).reshape(CHANNELS, SIDE, SIDE)
    rows = positions.transpose([axis - 1 for axis in axes]).reshape(-1)
    weights = {
        "w": rng.normal(size=(CHANNELS, 1, 3, 3)),
        "b": rng.normal(size=CHANNELS),
        "dense": (rng.normal(size=(positions.size, HIDDEN)) / 4)[rows],
        "head": rng.normal(size=(HIDDEN, CLASSES)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["map"]),
        helper.make_node("Relu", ["map"], ["seen"]),
    ]
    name = "seen"
    for number, (op, attributes) in enumerate(moves):
        nodes.append(helper.make_node(op, [name], [f"moved{number}"], **attributes))
        name = f"moved{number}"
    nodes += [
        helper.make_node("Flatten", [name], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "flattened",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE + 2, SIDE + 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WAYS = [
    dx.Way(strength=1.0, keep_head=True),
    dx.Way(remove=True, amount=Amount("share", 0.2)),
    dx.Way(method="leace", strength=1.0),
]


def images(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(80) % CLASSES
    means = rng.normal(size=(CLASSES, 1, SIDE + 2, SIDE + 2))
    noise = rng.normal(size=(80, 1, SIDE + 2, SIDE + 2))
    return (means[labels] + noise).astype(np.float32), labels


def ran(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("way", WAYS, ids=["projected", "removed", "leace"])
def test_the_order_in_which_a_map_is_flattened_makes_no_difference(way, tmp_path):
    """The same function, flattened in three orders, forgets the same."""
    x, labels = images(np.random.default_rng(1))
    found = {}
    for order in ORDERS:
        path = tmp_path / f"{order}.onnx"
        onnx.save(flattened(order, np.random.default_rng(0)), path)
        model = dx.load(path)
        data = dx.open_data(model, (x, labels))
        moments = dx.calibrate(model, data, device="cpu")
        edit = dx.forget(model, moments, [1], way, data=data, device="cpu")
        found[order] = ran(edit.proto, x)
        assert np.abs(found[order] - ran(model.proto, x)).max() > 0.1
    for order in ORDERS:
        np.testing.assert_allclose(found[order], found["channels first"], atol=1e-4)


def opened(proto: onnx.ModelProto, folder: Path) -> tuple[Model, Moments]:
    """A model and its moments on random images."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    model = dx.load(path)
    data = dx.open_data(model, images(np.random.default_rng(1)))
    return model, dx.calibrate(model, data, device="cpu")


@pytest.mark.parametrize("order", ORDERS)
def test_each_feature_is_a_channel_at_a_place(order, tmp_path):
    model, moments = opened(flattened(order, np.random.default_rng(0)), tmp_path)
    view = View(model.proto)
    layer = next(layer for layer in find_layers(view) if layer.weight == "dense")
    read = read_of(view, moments, layer)
    assert read is not None
    _, axes = ORDERS[order]
    grid = np.indices((CHANNELS, SIDE, SIDE)).transpose(0, *axes).reshape(3, -1)
    features = np.arange(grid.shape[1])
    for place in read.places:
        np.testing.assert_array_equal(grid[0][place], np.arange(CHANNELS))
        assert len(np.unique(grid[1:][:, place], axis=1).T) == 1, "one position each"
    np.testing.assert_array_equal(np.sort(read.places, axis=None), features)
    values = np.random.default_rng(2).normal(size=CHANNELS)
    np.testing.assert_array_equal(read.at_places(values), values[grid[0]])


def test_channels_that_a_convolution_gets_from_positions(tmp_path):
    """Pixels are moved into channels: the next convolution has four times as many."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(CHANNELS, 1, 2, 2)),
        "next": rng.normal(size=(6, 4 * CHANNELS, 1, 1)),
        "head": rng.normal(size=(6, CLASSES)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node("Relu", ["map"], ["seen"]),
        helper.make_node("Reshape", ["seen", "split"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[0, 1, 3, 5, 2, 4]),
        helper.make_node("Reshape", ["turned", "joined"], ["deep"]),
        helper.make_node("Conv", ["deep", "next"], ["later"]),
        helper.make_node("Relu", ["later"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    shapes = {"split": [-1, CHANNELS, 2, 2, 2, 2], "joined": [-1, 4 * CHANNELS, 2, 2]}
    graph = helper.make_graph(
        nodes,
        "unshuffled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE + 2, SIDE + 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
        + [numpy_helper.from_array(np.array(s, np.int64), name) for name, s in shapes.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model, moments = opened(proto, tmp_path)
    edit = dx.forget(model, moments, [1], dx.Way(strength=1.0), device="cpu")
    assert np.abs(ran(edit.proto, images(rng)[0]) - ran(proto, images(rng)[0])).max() > 0
    view = View(proto)
    layer = next(layer for layer in find_layers(view) if layer.weight == "next")
    read = read_of(view, moments, layer)
    assert read is not None
    assert read.places.shape == (4, CHANNELS)
