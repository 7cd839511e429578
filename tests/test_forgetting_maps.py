"""Maps around a layer, the head's projections and the span of class means, on small layers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from discedit_onnx.calibration.second import SecondMoments
from discedit_onnx.editing.forgetting.filling import _fill
from discedit_onnx.editing.forgetting.head import find_head
from discedit_onnx.editing.forgetting.head_edits import MARGIN, projected, suppressed
from discedit_onnx.editing.forgetting.maps import LayerEdit, at_input, explicit, fold, matrix_of
from discedit_onnx.editing.forgetting.spans import off_span
from discedit_onnx.editing.plan import Plan
from discedit_onnx.editing.refit.layers import find_layers
from discedit_onnx.editing.surgery import apply
from discedit_onnx.errors import ModelError
from discedit_onnx.graph.view import View

WAYS = ("conv", "strided", "conv-bias", "gemm", "gemm-b", "matmul", "matmul-add")


def layer_model(way: str, rng: np.random.Generator) -> tuple[onnx.ModelProto, np.ndarray]:
    """One linear layer, and an input for it."""
    inputs, outputs = 5, 4
    weights = {"b": rng.normal(size=outputs)}
    attributes: dict[str, object] = {}
    extra = []
    if "conv" in way or way == "strided":
        x = rng.normal(size=(3, inputs, 6, 7))
        weights["w"] = rng.normal(size=(outputs, inputs, 3, 2))
        attributes = {"pads": [1, 0, 1, 1]}
        if way == "strided":
            attributes |= {"strides": [2, 2], "dilations": [1, 2]}
        names = ["x", "w", "b"] if way == "conv-bias" else ["x", "w"]
        nodes = [helper.make_node("Conv", names, ["y"], **attributes)]
    elif way.startswith("gemm"):
        x = rng.normal(size=(3, inputs))
        weights["w"] = rng.normal(size=(outputs, inputs) if way == "gemm-b" else (inputs, outputs))
        names = ["x", "w", "b"] if way == "gemm-b" else ["x", "w"]
        nodes = [helper.make_node("Gemm", names, ["y"], transB=int(way == "gemm-b"))]
    else:
        x = rng.normal(size=(3, 6, inputs))
        weights["w"] = rng.normal(size=(inputs, outputs))
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p" if "add" in way else "y"])]
        extra = [helper.make_node("Add", ["b", "p"], ["y"])] if "add" in way else []
    graph = helper.make_graph(
        [*nodes, *extra, helper.make_node("Sigmoid", ["y"], ["z"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info("z")],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, x.astype(np.float32)


def ran(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("space", ["channels", "patches", "output"])
def test_what_is_folded_equals_the_maps_as_nodes(way, space):
    rng = np.random.default_rng(len(way) + len(space))
    model, x = layer_model(way, rng)
    view = View(model)
    (layer,) = find_layers(view)
    if space == "output":
        edit = LayerEdit(layer, None, rng.normal(size=(4, 4)), rng.normal(size=4))
    else:
        width = 5 if space == "channels" else len(matrix_of(view, layer))
        edit = at_input(view, layer, rng.normal(size=(width, width)), rng.normal(size=width))
    updates, biases = fold(view, [edit])
    folded = apply(model, Plan("", updates=updates, biases=biases))
    expected = ran(explicit(model, [edit]), x)
    np.testing.assert_allclose(ran(folded, x), expected, atol=2e-5)
    assert np.abs(expected - ran(model, x)).max() > 1e-2, "the map does something"


def head_model(matrix: np.ndarray, bias: np.ndarray) -> View:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["l"]),
         helper.make_node("Softmax", ["l"], ["probabilities"])],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(matrix)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(bias)])],
        [numpy_helper.from_array(matrix.astype(np.float32), "w"),
         numpy_helper.from_array(bias.astype(np.float32), "b")],
    )  # fmt: skip
    return View(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@given(
    st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 12), st.integers(1, 3), st.booleans()
)
def test_a_forgotten_class_can_not_win(seed, classes, features, gone, deep):
    """Whatever the head and the features, collapsed heads of few features among them."""
    rng = np.random.default_rng(seed)
    gone = min(gone, classes - 1)
    matrix, bias = rng.normal(size=(features, classes)), rng.normal(size=classes)
    if seed % 3 == 0:
        matrix -= matrix.mean(axis=1, keepdims=True)  # as cross-entropy with decay leaves it
    view = head_model(matrix, bias)
    matrix, bias = matrix.astype(np.float32), bias.astype(np.float32)
    head = find_head(view, "probabilities", classes)
    forgotten = rng.permutation(classes)[:gone].tolist()
    retained = np.setdiff1d(np.arange(classes), forgotten)
    edit = (projected if deep else suppressed)(view, head, forgotten)
    updates, _ = fold(view, [edit])
    weight, shift = (u.values.astype(np.float64) for u in updates)
    x = rng.normal(size=(50, features))
    before, after = x @ matrix + bias, x @ weight + shift
    scale = 1e-4 * (1 + np.abs(after).max())
    best = after[:, retained].max(axis=1, keepdims=True)
    assert (after[:, forgotten] <= best + scale - (0 if deep else MARGIN / 2)).all()
    if not deep or features >= classes:
        a, b = (z[:, retained] - z[:, retained[:1]] for z in (before, after))
        np.testing.assert_allclose(b, a, atol=scale * 10)


def test_a_head_that_is_none():
    model, _ = layer_model("gemm", np.random.default_rng(0))
    with pytest.raises(ModelError, match="one logit for each class"):
        find_head(View(model), "z", 3)
    model.graph.node[-1].op_type = "Erf"
    with pytest.raises(ModelError, match="made by Erf"):
        find_head(View(model), "z", 4)


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 3))
def test_what_is_off_the_span(seed, classes, gone):
    rng = np.random.default_rng(seed)
    gone = min(gone, classes - 1)
    means = rng.normal(size=(classes, 12)) + 3
    basis, centre = off_span(means, np.full(classes, 5), list(range(gone)))
    assert basis.shape[1] == gone
    np.testing.assert_allclose(basis.T @ basis, np.eye(gone), atol=1e-9)
    others = means[gone:] - centre
    # Kept but for the little that the weakest of their directions gives way.
    moved = np.linalg.norm(others @ basis) / max(np.linalg.norm(others), 1e-9)
    assert moved < 0.1
    left = (means[:gone] - centre) @ (np.eye(12) - basis @ basis.T)
    span = np.linalg.svd(others)[2][: classes - gone - 1]
    outside = left - left @ span.T @ span
    assert np.linalg.norm(outside) < 0.15 * np.linalg.norm(means[:gone] - centre)


def test_more_classes_than_channels_leave_something_to_remove():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(40, 6)) * [9, 5, 3, 1, 0.1, 0.01]
    basis, _ = off_span(means, np.full(40, 3), [4])
    assert basis.shape == (6, 1)


def test_a_class_without_images_spans_nothing():
    means = np.random.default_rng(0).normal(size=(4, 6))
    basis, _ = off_span(means, np.array([0, 3, 3, 3]), [0])
    assert basis.shape == (6, 0)
    with_it, _ = off_span(means, np.array([3, 0, 3, 3]), [0])
    np.testing.assert_allclose(with_it, off_span(np.delete(means, 1, 0), np.full(3, 3), [0])[0])


def test_a_missing_channel_is_made_up_for():
    """By regression what a copy holds comes back whole; without second moments the mean does."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) + np.arange(4)
    x[:, 3] = 2 * x[:, 0] - x[:, 1] + 5
    mean, missing = x.mean(axis=0), np.array([False, False, False, True])
    centred = x - mean
    second = SecondMoments(len(x), mean, centred.T @ centred)
    fill, offset = _fill(second, missing, mean)
    np.testing.assert_allclose(x @ fill + offset, x, atol=0.05)
    fill, offset = _fill(None, missing, mean)
    expected = np.where(missing, mean, x)
    np.testing.assert_allclose(x @ fill + offset, expected)
    assert not fill[3].any(), "it is not read any more"
