"""Graphs that are valid and rare: outputs of other kinds, biases of other shapes, odd data."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import discedit_onnx as dx
from discedit_onnx.calibration.gathering import Wanted
from discedit_onnx.editing.verify import compare, random_feeds
from discedit_onnx.errors import DataError, ModelError, UsageError
from discedit_onnx.graph.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.model import Model

INPUTS, HIDDEN, CLASSES = 6, 8, 3
FLOAT = TensorProto.FLOAT


def network(
    *more: onnx.NodeProto,
    outputs: Sequence[onnx.ValueInfoProto] = (),
    bias: tuple[int, ...] = (HIDDEN,),
    layers: int = 2,
    constants: dict[str, np.ndarray] | None = None,
    batch: str | int = "n",
    ir_version: int = 8,
) -> onnx.ModelProto:
    """Gemm, Relu, ..., head; with more nodes and outputs behind it."""
    rng = np.random.default_rng(0)
    widths = [INPUTS, *[HIDDEN] * (layers - 1), CLASSES]
    weights = {f"w{i}": rng.normal(size=pair) for i, pair in enumerate(pairwise(widths))}
    weights |= {f"b{i}": rng.normal(size=bias) for i in range(layers - 1)}
    nodes, name = [], "x"
    for i in range(layers - 1):
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"g{i}"]))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i}"]))
        name = f"r{i}"
    nodes.append(helper.make_node("MatMul", [name, f"w{layers - 1}"], ["logits"]))
    tensors = [numpy_helper.from_array(w.astype(np.float32), key) for key, w in weights.items()]
    tensors += [numpy_helper.from_array(array, key) for key, array in (constants or {}).items()]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [batch, INPUTS])]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    logits = helper.make_tensor_value_info("logits", FLOAT, [batch, CLASSES])
    graph = helper.make_graph([*nodes, *more], "net", inputs, [logits, *outputs], tensors)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def opened(proto: onnx.ModelProto, folder: Path, images: int = 64) -> tuple[Model, Dataset]:
    onnx.save(proto, folder / "model.onnx")
    model = dx.load(folder / "model.onnx")
    rng = np.random.default_rng(1)
    labels = np.arange(images) % CLASSES
    x = rng.normal(size=(CLASSES, INPUTS))[labels] + rng.normal(size=(images, INPUTS))
    return model, dx.open_data(model, (x.astype(np.float32), labels))


def ran(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def with_map() -> onnx.ModelProto:
    """As scikit-learn's converter ends a classifier: a sequence of maps beside the numbers."""
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    chances = helper.make_value_info("chances", helper.make_sequence_type_proto(kind))
    nodes = (
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
        helper.make_node(
            "ZipMap", ["soft"], ["chances"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
        ),
    )
    return network(*nodes, outputs=[chances], layers=4)


def with_names() -> onnx.ModelProto:
    """The name of the best class as a string."""
    name = helper.make_tensor_value_info("name", TensorProto.STRING, ["n"])
    nodes = (
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "best"], ["name"]),
    )
    table = np.array(["cat", "dog", "owl"], dtype=object)
    return network(*nodes, outputs=[name], constants={"table": table}, layers=4)


@pytest.mark.parametrize("make", [with_map, with_names])
def test_outputs_that_are_no_numbers(make, tmp_path):
    """They are compared with the rest, and count for nothing where errors are measured."""
    model, data = opened(make(), tmp_path)
    for refit in ("off", "patch"):
        edit = dx.prune(model, data=data, sparsity=0.3, refit=refit, device="cpu")
        assert edit.parameters[1] < edit.parameters[0]
    gone = dx.forget(model, None, [1], dx.Way(remove=True), data=data, device="cpu")
    x = data.sample()[0]
    assert (ran(gone.proto, x)[0].argmax(1) != 1).all()


def test_sequences_and_maps_are_compared_part_by_part():
    proto, other = with_map(), with_map()
    (weight,) = (t for t in other.graph.initializer if t.name == "w3")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, "w3"))
    feeds = random_feeds(View(proto))
    assert compare(proto, proto, feeds, "cpu").deviation == 0
    assert compare(proto, other, feeds, "cpu").deviation > 1e-4
    del proto.graph.output[0], other.graph.output[0]
    assert compare(proto, other, feeds, "cpu").deviation > 1e-4


def test_another_output_that_tells_the_class_is_refused(tmp_path):
    """Only one head is edited: the other would still answer with the class."""
    other = helper.make_tensor_value_info("again", FLOAT, ["n", CLASSES, 1, 1])
    weights = {
        "wide": np.random.default_rng(5).normal(size=(HIDDEN, CLASSES)).astype(np.float32),
        "as_map": np.array([0, CLASSES, 1, 1], np.int64),
    }
    nodes = (
        helper.make_node("MatMul", ["r0", "wide"], ["second"]),
        helper.make_node("Reshape", ["second", "as_map"], ["again"]),
    )
    model, data = opened(network(*nodes, outputs=[other], constants=weights), tmp_path)
    with pytest.raises(ModelError, match="'again' has a number for each class too"):
        dx.forget(model, None, [1], dx.Way(level="output"), data=data, device="cpu")
    behind = helper.make_tensor_value_info("soft", FLOAT, ["n", CLASSES])
    node = helper.make_node("Softmax", ["logits"], ["soft"], axis=1)
    model, data = opened(network(node, outputs=[behind]), tmp_path)
    dx.forget(model, None, [1], dx.Way(level="output"), data=data, device="cpu")


@pytest.mark.parametrize("method", ["projection", "leace", "svd", "components"])
def test_images_of_the_forgotten_class_alone_are_refused(method, tmp_path):
    model, data = opened(network(layers=3), tmp_path)
    only = data.take(np.flatnonzero(data.labels == 1))
    with pytest.raises(DataError, match="no images of classes that stay"):
        dx.forget(model, None, [1], dx.Way(method=method), data=only, device="cpu")
    moments = dx.calibrate(model, only, device="cpu")
    if method in ("projection", "components"):
        with pytest.raises(DataError, match="no images of classes that stay"):
            dx.forget(model, moments, [1], dx.Way(method=method), device="cpu")


@pytest.mark.parametrize("strength", [None, 0.5])
@pytest.mark.parametrize("method", ["projection", "leace", "svd", "components"])
def test_images_without_the_forgotten_class_are_refused(method, strength, tmp_path):
    model, data = opened(network(layers=3), tmp_path)
    others = data.take(np.flatnonzero(data.labels != 1))
    way = dx.Way(method=method, strength=strength)
    says = r"^nothing to edit: there are no images of the classes to forget; give .*level head"
    with pytest.raises(DataError, match=says):
        dx.forget(model, None, [1], way, data=others, device="cpu")
    moments = dx.calibrate(model, others, device="cpu")
    if method in ("projection", "components"):
        with pytest.raises(DataError, match=says):
            dx.forget(model, moments, [1], way, device="cpu")
    else:
        with pytest.raises(DataError, match=says):
            dx.forget(model, dx.calibrate(model, data), [1], way, data=others, device="cpu")


@pytest.mark.parametrize("way", [dx.Way(method="components"), dx.Way(remove=True)])
def test_specific_components_need_classes_that_stay_one_by_one(way, tmp_path):
    """Specific is what says more of the class than of the others, one by one."""
    model, data = opened(network(layers=3), tmp_path)
    moments = dx.calibrate(model, data, wanted=Wanted(classes=(1,)), device="cpu")
    with pytest.raises(DataError, match=r"no class that stays one by one.*--classes"):
        dx.forget(model, moments, 1, way, device="cpu")


@pytest.mark.parametrize("method", ["projection", "leace", "svd"])
def test_no_strength_is_found_on_no_image_of_the_class(method, tmp_path):
    """Of three images none is held out, so that each strength forgets nothing alike."""
    model, data = opened(network(layers=3), tmp_path)
    few = np.flatnonzero((data.labels != 1) | (np.cumsum(data.labels == 1) <= 3))
    with pytest.raises(DataError, match=r"fewer than 4 images.*--strength"):
        dx.forget(model, None, [1], dx.Way(method=method), data=data.take(few), device="cpu")


@pytest.mark.parametrize("method", ["projection", "leace"])
def test_no_later_layer_is_said(method, tmp_path):
    model, data = opened(network(layers=1), tmp_path)
    with pytest.raises((DataError, ModelError), match=r"level head|can be removed"):
        dx.forget(model, None, [1], dx.Way(method=method), data=data, device="cpu")


@pytest.mark.parametrize("bias", [(), (1,), (1, HIDDEN), (4, 1), (4, HIDDEN)], ids=str)
def test_biases_of_a_gemm_of_any_shape(bias, tmp_path):
    """One number for all, one for each row: no layer to refit; a row in two axes is."""
    batch = 4 if bias[:1] == (4,) else "n"
    model, data = opened(network(bias=bias, batch=batch, layers=3), tmp_path)
    for refit in ("off", "bias", "channel", "patch"):
        edit = dx.prune(model, data=data, sparsity=0.3, refit=refit, device="cpu")
        assert edit.parameters[1] < edit.parameters[0]
        assert all(np.isfinite(found).all() for found in ran(edit.proto, data.sample()[0])[:1])
    way = dx.Way(level="head")
    gone = dx.forget(model, None, [1], way, data=data, device="cpu")
    assert (ran(gone.proto, data.sample()[0])[0].argmax(1) != 1).all()


def test_weights_that_overflow_are_refused(tmp_path):
    """NaN equals NaN where models are compared: such weights must not come so far."""
    model, data = opened(network(layers=4), tmp_path)
    moments = dx.calibrate(model, data, device="cpu")
    with pytest.raises(UsageError, match="overflow: use a smaller strength"):
        dx.forget(model, moments, [1], dx.Way(strength=1e30), device="cpu")


@pytest.mark.parametrize("method", ["leace", "svd"])
def test_initializers_that_are_inputs_too(method, tmp_path):
    """As before IR version 4: the reference of the proof gives some of them another shape."""
    model, data = opened(network(layers=4, ir_version=3), tmp_path)
    edit = dx.forget(model, None, [1], dx.Way(method=method), data=data, device="cpu")
    assert (ran(edit.proto, data.sample()[0])[0].argmax(1) != 1).all()


def test_an_output_of_half_precision_is_compared_as_such():
    half = helper.make_tensor_value_info("half", TensorProto.FLOAT16, ["n", CLASSES])
    node = helper.make_node("Cast", ["logits"], ["half"], to=TensorProto.FLOAT16)
    proto = network(node, outputs=[half])
    plain = network()
    feeds = random_feeds(View(proto))
    assert (
        compare(proto, proto, feeds, "cpu").tolerance
        > compare(plain, plain, feeds, "cpu").tolerance
    )


@pytest.mark.parametrize("fixed", [None, 4])
def test_class_scores_in_a_map_of_one_place(fixed, tmp_path):
    """As SqueezeNet ends: a pooled map, never flattened."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 1, 3, 3), "w1": (10, 8, 1, 1), "w2": (CLASSES, 10, 1, 1)}
    nodes, name = [], "x"
    for i in range(3):
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"]))
        name = f"c{i}"
        if i < 2:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["pooled"]))
    nodes.append(helper.make_node("Softmax", ["pooled"], ["scores"], axis=1))
    batch = fixed or "n"
    graph = helper.make_graph(
        nodes,
        "squeezed",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 1, 6, 6])],
        [helper.make_tensor_value_info("scores", FLOAT, [batch, CLASSES, 1, 1])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), key)
            for key, shape in shapes.items()
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(proto, tmp_path / "model.onnx")
    model = dx.load(tmp_path / "model.onnx")
    x = rng.normal(size=(40, 1, 6, 6)).astype(np.float32)
    (scores,) = ran(proto, {"x": x}) if fixed is None else [np.empty(0)]
    labels = scores.reshape(40, CLASSES).argmax(1) if fixed is None else np.arange(40) % CLASSES
    data = dx.open_data(model, (x, labels))
    if fixed is None:
        assert dx.evaluate(model, data, device="cpu", latency=False).top1 == 1
    moments = dx.calibrate(model, data, device="cpu")
    edit = dx.prune(model, data=data, sparsity=0.2, device="cpu")
    assert edit.parameters[1] < edit.parameters[0]
    for way in (dx.Way(level="output"), dx.Way(keep_head=False), dx.Way(drop_output=True)):
        gone = dx.forget(model, moments, [1], way, data=data, device="cpu")
        (scores,) = ran(gone.proto, {"x": x[: fixed or 40]})
        assert scores.shape[1:] == (CLASSES - way.drop_output, 1, 1)
        assert way.drop_output or (scores.reshape(-1, CLASSES).argmax(1) != 1).all()


def test_all_outputs_behind_the_head_lose_the_class(tmp_path):
    """Scores and probabilities side by side."""
    probabilities = helper.make_tensor_value_info("soft", FLOAT, ["n", CLASSES])
    soft = helper.make_node("Softmax", ["logits"], ["soft"], axis=1)
    model, data = opened(network(soft, outputs=[probabilities]), tmp_path)
    gone = dx.forget(model, None, [1], dx.Way("head", drop_output=True), data=data, device="cpu")
    x = data.sample()[0]
    assert [found.shape[1] for found in ran(gone.proto, x)] == [CLASSES - 1] * 2
    lengths = [o.type.tensor_type.shape.dim[1].dim_value for o in gone.proto.graph.output]
    assert lengths == [CLASSES - 1] * 2


@pytest.mark.parametrize("end", ["none", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("rank", ["full", "sums of 0", "the mean of the others"])
def test_a_head_is_refitted_whatever_it_was(end, rank, tmp_path):
    """Its columns may depend on one another, and what lies behind may round large logits to 1."""
    behind = [] if end == "none" else [helper.make_node(end, ["logits"], ["bent"])]
    proto = network(*behind, layers=5)
    if behind:
        proto.graph.output[0].name = "bent"
    head = next(t for t in proto.graph.initializer if t.name == "w4")
    weights = 0.01 * numpy_helper.to_array(head)
    if rank == "sums of 0":
        weights -= weights.mean(axis=1, keepdims=True)
    elif rank != "full":
        weights[:, 0] = weights[:, 1:].mean(axis=1)
    head.CopyFrom(numpy_helper.from_array(weights, "w4"))
    model, data = opened(proto, tmp_path, images=300)
    way = dx.Way(refit_head=True, strength=0.1)
    edit = dx.forget(model, None, [1], way, data=data, device="cpu")
    (scores,) = ran(edit.proto, next(data.batches(300)).feeds)
    assert (scores.argmax(axis=1) != 1).all()
    retained = data.labels != 1
    assert (scores.argmax(axis=1) == data.labels)[retained].mean() > 0.6
    if (rank, end) == ("full", "none"):
        (before,) = ran(proto, next(data.batches(300)).feeds)
        spreads = [found[retained][:, [0, 2]].std() for found in (before, scores)]
        assert spreads[0] == pytest.approx(spreads[1], rel=0.2)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_on_one_side_alone_is_no_equality(odd):
    """A maximum with NaN may be either of the two: a broken model was proved equal by it."""
    proto, other = network(), network()
    (weight,) = (t for t in other.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = odd
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    feeds = random_feeds(View(proto))
    for a, b in ((proto, other), (other, proto)):
        assert compare(a, b, feeds, "cpu").deviation == np.inf
    assert compare(other, other, feeds, "cpu").deviation == 0
