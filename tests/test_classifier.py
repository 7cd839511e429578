"""The classifier in a model: its inputs, the images that it takes, its class scores."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import HEIGHT, WIDTH, classifier, saved

from discedit_onnx.calibration.classifier import classifier_of
from discedit_onnx.calibration.preprocess import ImageForm
from discedit_onnx.errors import ModelError


def parsed(tmp_path, text: str):
    return saved(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":17]>\n{text}'), tmp_path
    )


@pytest.mark.parametrize(
    ("kind", "form", "batch"),
    [
        ({}, ImageForm(1, HEIGHT, WIDTH), None),
        ({"channels": 3}, ImageForm(3, HEIGHT, WIDTH), None),
        ({"channels_last": True}, ImageForm(1, HEIGHT, WIDTH, True), None),
        ({"channels_last": True, "channels": 3}, ImageForm(3, HEIGHT, WIDTH, True), None),
        ({"height": "H", "width": "W", "batch": 2}, ImageForm(1, None, None), 2),
    ],
)
def test_image_classifiers(tmp_path, kind, form, batch):
    found = classifier_of(saved(classifier(**kind), tmp_path))
    assert (found.form, found.batch) == (form, batch)
    assert (found.output, found.num_classes) == ("logits", 3)
    assert found.input.dtype == np.float32


def test_images_may_be_bytes(tmp_path):
    text = """g (uint8[N,4,4,3] a) => (float[N,48] y)
        { b = Cast<to=1>(a) y = Flatten(b) }"""
    found = classifier_of(parsed(tmp_path, text))
    assert found.input.dtype == np.uint8
    assert found.form == ImageForm(3, 4, 4, channels_last=True)


def test_several_inputs(tmp_path):
    text = """g (int64[N,T] ids, float[N,T] mask) => (float[N,2] y) <float[1,2] one = {1, 1}>
        { m = ReduceMean<axes = [1]>(mask) y = Mul(m, one) }"""
    found = classifier_of(parsed(tmp_path, text))
    assert [(i.name, i.dtype.name, i.shape) for i in found.inputs] == [
        ("ids", "int64", (None, None)),
        ("mask", "float32", (None, None)),
    ]
    assert (found.batch, found.num_classes) == (None, 2)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ("float[N,6] features, float[N,3] logits", "logits"),
        ("float[N,6] features, float[N,3] logits, float[N,3] shares", "logits"),
        ("float[N,6] features, float[N,3] shares", "shares"),
        ("float[N,3] shares, float[N,3] logits", "shares"),
        ("float[N,4] other, float[N,3] logits", "other"),
        ("float[N,6] passed, float[N,3] logits", "logits"),
        ("float[N,6] normalised, float[N,3] logits", "logits"),
        ("float[N,6] lp, float[N,3] shares", "shares"),
    ],
)
def test_features_are_no_class_scores(tmp_path, outputs, expected):
    """What another output is computed from, but with the same classes both are scores."""
    text = f"""g (float[N,6] x, float[6,3] w, float[6,4] v) => ({outputs}) {{
        features = Relu(x)
        logits = MatMul(features, w)
        shares = Softmax(logits)
        other = MatMul(features, v)
        passed = Identity(features)
        norm = ReduceL2<axes=[1]>(features)
        normalised = Div(features, norm)
        lp = LpNormalization(features)
    }}"""
    assert classifier_of(parsed(tmp_path, text)).output == expected


def test_an_open_width_is_inferred(tmp_path):
    proto = classifier()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    assert classifier_of(saved(proto, tmp_path)).num_classes == 3


def test_the_classifier_output_need_not_be_the_first(tmp_path):
    proto = classifier()
    maps = helper.make_tensor_value_info("h1", TensorProto.FLOAT, ["N", 4, HEIGHT, WIDTH])
    proto.graph.output.insert(0, maps)
    assert classifier_of(saved(proto, tmp_path)).output == "logits"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g (float[N,1,4,4] a) => (float[N,1,4,4] y) { y = Relu(a) }", "no classifier output"),
        ("g (float[N,1,1,1] a) => (float[N,1] y) { y = Flatten(a) }", "no classifier output"),
        ("g (float[N,1,H,4] a) => (float[N,M] y) { y = Flatten(a) }", "no classifier output"),
        ("g () => (float[1,2] y) { y = RandomNormal<shape = [1, 2]>() }", "takes no inputs"),
    ],
)
def test_models_that_are_no_classifiers(tmp_path, text, said):
    with pytest.raises(ModelError, match=said) as caught:
        classifier_of(parsed(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "g (float[N,1,4,4] a, float[N,2] b) => (float[N,18] y)"
            " { c = Flatten(a) y = Concat<axis=1>(c, b) }",
            r"takes 2 inputs \(a, b\): images alone can't feed it",
        ),
        (
            "g (int32[N,1,4,4] a) => (float[N,16] y) { b = Flatten(a) y = Cast<to=1>(b) }",
            r"'a' is int32 \(\?, 1, 4, 4\), which is no image",
        ),
        ("g (float[N,16] a) => (float[N,16] y) { y = Relu(a) }", "which is no image"),
        ("g (float[N,5,4,4] a) => (float[N,80] y) { y = Flatten(a) }", "with no axis of 1 or 3"),
    ],
)
def test_classifiers_of_something_else_than_images(tmp_path, text, said):
    found = classifier_of(parsed(tmp_path, text))
    with pytest.raises(ModelError, match=said) as caught:
        _ = found.form
    assert "\n" not in str(caught.value)
