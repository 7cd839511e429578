"""Linear layers as rows times a matrix, held against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from discedit_onnx.editing.refit import sampling
from discedit_onnx.editing.refit.equations import Fit, Rows, fit_bias, fit_rows
from discedit_onnx.editing.refit.layers import find_layers
from discedit_onnx.editing.refit.sampling import sample
from discedit_onnx.graph.view import View

RNG = np.random.default_rng(0)
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1
OPTIONS.log_severity_level = 4


def model_of(nodes, shape, weights):
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def runs(node, x, weights):
    """Whether ONNX Runtime takes a layer: not all kernels fit all inputs."""
    try:
        return run(model_of([node], list(x.shape), weights), x).size > 0
    except Exception:  # its own types, one for each way to fail
        return False


def check(nodes, x, weights):
    """Rows times matrix is what the layer gives, everywhere and at sampled places."""
    model = model_of(nodes, list(x.shape), weights)
    y = run(model, x)
    (layer,) = find_layers(View(model))
    assert layer.output == "y"
    weight = weights[layer.weight]
    matrix = layer.matrix(weight)
    np.testing.assert_array_equal(layer.weight_of(matrix, weight.shape), weight)
    bias = 0 if layer.bias is None else weights[layer.bias].reshape(layer.groups, 1, -1)
    found, wanted = layer.rows(x) @ matrix + bias, layer.targets(y)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)
    places = layer.positions(x)
    assert wanted.shape[1] == len(x) * places
    few = sample(layer, [(x, [y]), (x[:1], [y[:1]])], len(x) + 1, 3)
    np.testing.assert_allclose(few.x @ matrix + bias, few.tensors[0], atol=1e-4, rtol=1e-4)
    assert few.held_out.shape == (few.x.shape[1],)
    return layer


@st.composite
def convolutions(draw, transposed=False):
    axes, groups = draw(st.sampled_from([1, 2, 2, 3])), draw(st.sampled_from([1, 1, 2, 3]))

    def each(low, high, count=axes):
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    attributes = {"strides": strides, "dilations": dilations, "group": groups}
    padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "none"]))
    if padding == "pads" or (transposed and padding.startswith("SAME")):
        attributes["pads"] = each(0, 2, 2 * axes)
    elif padding != "none":
        attributes["auto_pad"] = padding
        if padding.startswith("SAME"):
            attributes["dilations"] = [1] * axes  # ONNX Runtime takes no others with these
    if transposed:
        attributes["output_padding"] = [
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)
        ]
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weights = {"w": normal(*shape, *kernel)}
    if draw(st.booleans()):
        weights["b"] = normal(outputs)
    op = "ConvTranspose" if transposed else "Conv"
    node = helper.make_node(op, ["x", *weights], ["y"], **attributes)
    return node, normal(draw(st.integers(1, 3)), inputs, *each(3, 7)), weights


@settings(max_examples=150)
@given(convolutions())
def test_convolutions(case):
    node, x, weights = case
    assume(runs(node, x, weights))
    check([node], x, weights)


@settings(max_examples=150)
@given(convolutions(transposed=True))
def test_transposed_convolutions(case):
    node, x, weights = case
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads = attributes.get("pads", [0] * 2 * (x.ndim - 2))
    spans = np.array(attributes["dilations"]) * (np.array(weights["w"].shape[2:]) - 1)
    assume((np.array(pads).reshape(2, -1) <= spans).all())  # else the layer is left out
    assume(runs(node, x, weights))
    assert check([node], x, weights).op == "ConvTranspose"


def test_what_crops_its_output_is_no_layer():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    assert find_layers(View(model_of([node], [1, 2, 5, 5], {"w": normal(2, 3, 1, 1)}))) == ()


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(trans_b, bias):
    weights = {"w": normal(3, 4) if trans_b else normal(4, 3)} | ({"b": normal(3)} if bias else {})
    check([helper.make_node("Gemm", ["x", *weights], ["y"], transB=trans_b)], normal(5, 4), weights)


@pytest.mark.parametrize("shape", [(5, 4), (2, 6, 4), (2, 3, 6, 4)])
@pytest.mark.parametrize("bias", ["none", "left", "right"])
def test_matrix_products(shape, bias):
    weights = {"w": normal(4, 3)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if bias == "none" else "m"])]
    if bias != "none":
        inputs = ["m", "b"] if bias == "right" else ["b", "m"]
        nodes.append(helper.make_node("Add", inputs, ["y"]))
        weights["b"] = normal(3)
    assert check(nodes, normal(*shape), weights).bias == ("b" if bias != "none" else None)


ONE = helper.make_node("MatMul", ["x", "w"], ["h"])


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0)],
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)],
        [helper.make_node("MatMul", ["w", "x"], ["y"])],
        [ONE, helper.make_node("MatMul", ["h", "w"], ["y"])],
        [helper.make_node("Relu", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])],
    ],
    ids=["alpha", "transA", "weight first", "weight read twice", "weight computed"],
)
def test_what_is_no_layer(nodes):
    assert find_layers(View(model_of(nodes, [4, 4], {"w": normal(4, 4)}))) == ()


def test_every_tensor_is_looked_at_in_the_same_places():
    """Rows are drawn once: an output that repeats its input says so."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    (layer,) = find_layers(View(model_of([node], ["N", 2, 40, 40], {"w": normal(2, 2, 1, 1)})))
    batches = [normal(3, 2, 40, 40) for _ in range(20)]
    found = sample(layer, ((x, [x, 2 * x]) for x in batches), 60, 0)
    assert found.x.shape[1] < 60 * 1600
    np.testing.assert_array_equal(found.x, found.tensors[0])
    np.testing.assert_array_equal(2 * found.x, found.tensors[1])


def test_the_widest_tensor_bounds_the_rows(monkeypatch):
    """What a layer gives may be wider than what it reads."""
    monkeypatch.setattr(sampling, "MOST_BYTES", 4 * 64 * 50)
    weights = {"w": normal(64, 2, 1, 1)}
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], [10, 2, 9, 9], weights)
    (layer,) = find_layers(View(model))
    x = normal(10, 2, 9, 9)
    found = sample(layer, [(x, [run(model, x)])], len(x), 0)
    assert found.tensors[0].shape == (1, 50, 64)


@pytest.mark.parametrize("images", [2, 3, 8, 9, 40])
def test_some_images_are_held_out_and_some_are_not(images):
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    (layer,) = find_layers(View(model_of([node], ["N", 1, 2, 2], {"w": normal(1, 1, 1, 1)})))
    x = np.arange(images, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 2, 2), np.float32)
    found = sample(layer, [(x, [x])], images, 0)
    inside = set(found.x[0, found.held_out, 0])
    assert inside
    assert not inside & set(found.x[0, ~found.held_out, 0])
    assert len(inside) < images


def test_samples_of_different_lengths():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    (layer,) = find_layers(View(model_of([node], ["N", "T", 2], {"w": normal(2, 2)})))
    batches = [normal(1, length, 2) for length in (3, 7, 5, 4, 9, 2, 6, 3, 8, 5)]
    found = sample(layer, ((x, [x]) for x in batches), len(batches), 0)
    assert found.held_out.shape == (found.x.shape[1],)
    assert 0 < found.held_out.sum() < found.x.shape[1]


def test_errors_are_those_behind_the_scale():
    """A channel that is multiplied with nothing has none, whatever its weights are."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(1, 200, 4)).astype(np.float32)
    scale = np.array([[[1.0, 0.0, 1e-9]]], np.float32)
    fit = Fit(draws.normal(size=(1, 4, 3)), np.zeros((1, 3)))
    none = np.zeros((1, 1, 1), np.float32)
    aim = scale * (x @ fit.matrix.astype(np.float32))
    other = Fit(fit.matrix + np.array([0, 5, 5]), fit.bias)
    rows = Rows(x, aim, none, scale, -np.inf, np.inf)
    assert rows.error(other) < 1e-12
    held_out = np.arange(200) % 8 == 7
    found, before, after = fit_rows(rows, held_out, Fit(fit.matrix + 1, fit.bias))
    assert after < 1e-3 * before
    np.testing.assert_allclose(found.matrix[..., 0], fit.matrix[..., 0], atol=0.05)


@pytest.mark.parametrize("fit", [fit_rows, fit_bias])
def test_what_is_held_out_is_in_no_fit(fit):
    """Layers further on are judged by it: it has to be as new to them as any other image."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(2, 400, 4)).astype(np.float32)
    matrix = draws.normal(size=(2, 4, 3))
    none = np.zeros((1, 1, 1), np.float32)
    aim = (x @ matrix + 1 + 0.01 * draws.normal(size=(2, 400, 3))).astype(np.float32)
    held_out = np.arange(400) % 8 == 7
    start = Fit(matrix + 1, np.zeros((2, 3)))
    found, before, after = fit(Rows(x, aim, none, none + 1, -np.inf, np.inf), held_out, start)
    assert after < before
    drawn = np.repeat(np.flatnonzero(held_out), 2)[: held_out.sum()]
    for values in (x, aim):  # half of the rows that are held out, each twice
        values[:, held_out] = values[:, drawn]
    again, *errors = fit(Rows(x, aim, none, none + 1, -np.inf, np.inf), held_out, start)
    assert errors != [before, after]
    np.testing.assert_array_equal(again.matrix, found.matrix)
    np.testing.assert_array_equal(again.bias, found.bias)
