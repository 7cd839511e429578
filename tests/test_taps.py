"""Taps: what they compute, and that they change nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny_models import HEIGHT, TAPS, WIDTH, classifier

from discedit_onnx.calibration.augment import augment
from discedit_onnx.calibration.taps import (
    FEATURES,
    GATHERED,
    GRID,
    STATISTICS,
    Tap,
    features_from,
    statistics_of,
    stride_for,
)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def statistics(model: onnx.ModelProto, taps: tuple[Tap, ...], images: np.ndarray) -> list:
    """The added outputs, per tap one array for each statistic."""
    tapped = augment(model, taps, FEATURES)
    onnx.checker.check_model(tapped, full_check=True)
    (values,) = list(run(tapped, images).values())[len(model.graph.output) :]
    ends = np.cumsum([tap.length for tap in taps] * len(STATISTICS))
    assert values.shape[1] == ends[-1]
    parts = np.split(values, ends[:-1], axis=1)
    return [parts[i :: len(taps)] for i in range(len(taps))]


def expected(tensor: np.ndarray, tap: Tap) -> list[np.ndarray]:
    x = np.moveaxis(tensor.astype(np.float64), tap.axis, 1)
    grid = x[:, :, :: tap.stride, :: tap.stride] if tap.stride > 1 else x
    x, grid = (part.reshape(*part.shape[:2], -1) for part in (x, grid))
    return [x.mean(axis=2), np.square(grid).mean(axis=2), x.max(axis=2), (grid > 0).mean(axis=2)]


def images(count: int = 7, height: int = HEIGHT, width: int = WIDTH, dtype=np.float32):
    return np.random.default_rng(2).normal(size=(count, 1, height, width)).astype(dtype)


def assert_statistics(model, full, taps, x, rtol=2e-6):
    tensors = run(full, x)
    for tap, found in zip(taps, statistics(model, taps, x), strict=True):
        for value, want in zip(found, expected(tensors[tap.tensor], tap), strict=True):
            assert value.dtype == np.float32
            assert value.shape == (len(x), tap.length)
            np.testing.assert_allclose(value, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 21])
def test_equals_numpy_on_full_tensors(opset):
    names = tuple(tap.tensor for tap in TAPS)
    full = classifier(opset, extra_outputs=names)
    assert_statistics(classifier(opset), full, TAPS, images())


def test_a_float16_model():
    names = tuple(tap.tensor for tap in TAPS)
    full = classifier(dtype=TensorProto.FLOAT16, extra_outputs=names)
    assert_statistics(classifier(dtype=TensorProto.FLOAT16), full, TAPS, images(dtype="f2"), 2e-3)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
def test_every_float_type_is_reduced_in_float32(dtype):
    """The squares of 300 are past the end of float16."""
    x, y = (helper.make_tensor_value_info(name, dtype, ["N", 2, 8, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    values = np.full((1, 2, 8, 8), 300, helper.tensor_dtype_to_np_dtype(dtype))
    ((mean, square, largest, positive),) = statistics(model, (Tap("y", 1, 2, 4),), values)
    np.testing.assert_array_equal(mean, np.float32([[300, 300]]), strict=True)
    np.testing.assert_array_equal(square, np.float32([[90000, 90000]]), strict=True)
    np.testing.assert_array_equal(largest, np.float32([[300, 300]]), strict=True)
    np.testing.assert_array_equal(positive, np.float32([[1, 1]]), strict=True)


@pytest.mark.parametrize("opset", [11, 17, 18, 21])
@pytest.mark.parametrize(
    "tap", [Tap("t", 3, 4, 4), Tap("t", 2, 5, 4), Tap("s", 2, 4, 3), Tap("s", 1, 30, 3)]
)
def test_channels_on_any_axis(opset, tap):
    """`t` is channels-last, `s` a sequence of tokens."""
    model = classifier(opset)
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [0, HEIGHT * WIDTH, 4])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Transpose", ["h1"], ["t"], perm=[0, 2, 3, 1]))
    model.graph.node.append(helper.make_node("Reshape", ["t", "shape"], ["s"]))
    full = onnx.ModelProto()
    full.CopyFrom(model)
    full.graph.output.append(helper.make_empty_tensor_value_info(tap.tensor))
    assert_statistics(model, onnx.shape_inference.infer_shapes(full), (tap,), images())


def test_divides_by_the_size_met_at_run_time():
    names = tuple(tap.tensor for tap in TAPS)
    model = classifier(height="H", width="W")
    full = classifier(height="H", width="W", extra_outputs=names)
    for height, width in ((6, 5), (3, 11)):
        assert_statistics(model, full, TAPS, images(4, height, width))


def test_logits_stay_bit_identical():
    model, x = classifier(), images(33)
    plain, tapped = run(model, x), run(augment(model, TAPS), x)
    np.testing.assert_array_equal(plain["logits"], tapped["logits"], strict=True)


def test_the_model_is_not_changed_and_its_outputs_come_first():
    model = classifier()
    before = model.SerializeToString(deterministic=True)
    tapped = augment(model, TAPS)
    assert model.SerializeToString(deterministic=True) == before
    assert tapped.graph.output[0] == model.graph.output[0]
    assert len(tapped.graph.output) == 2


def test_a_tapped_tensor_may_be_a_graph_output():
    model = classifier(extra_outputs=("h2",))
    assert_statistics(model, model, (Tap("h2", 1, 5, 4), Tap("logits", 1, 3, 2)), images())


def test_names_never_clash_with_the_models():
    model = classifier()
    tapped = augment(augment(model, TAPS), TAPS)
    onnx.checker.check_model(tapped, full_check=True)
    names = [output.name for output in tapped.graph.output]
    assert len(set(names)) == len(names)
    values = list(run(tapped, images()).values())[1:]
    half = len(values) // 2
    for first, second in zip(values[:half], values[half:], strict=True):
        np.testing.assert_array_equal(first, second)


def test_names_inside_subgraphs_count_too():
    branch = onnx.parser.parse_graph("b () => (float[N] discedit_tap) { }")
    branch.node.append(helper.make_node("Identity", ["logits"], ["discedit_tap"]))
    model = classifier()
    node = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    names = {output.name for output in augment(model, TAPS).graph.output}
    assert "discedit_tap" not in names


def test_no_taps_is_a_copy():
    model = classifier()
    assert augment(model, ()) == model


def test_an_unknown_tensor_is_refused():
    with pytest.raises(ValueError, match="no tensor named 'h9'"):
        augment(classifier(), (Tap("h9", 1, 4, 4),))


def test_what_the_graph_computes_for_features():
    assert statistics_of(GATHERED) == ("mean", "mean_square")
    assert statistics_of(("max", "rms")) == ("mean_square", "max")
    assert statistics_of(("mean",)) == ("mean",)
    assert statistics_of(FEATURES) == STATISTICS


def test_features_are_columns_in_the_order_asked_for():
    values = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(STATISTICS, start=4)}
    found = features_from(("positive", "rms", "mean"), values)
    assert found.shape == (2, 3, 3)
    assert (found == np.float32([7, np.sqrt(np.float32(5)), 4])).all()


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_squares_and_signs_of_large_maps_are_taken_on_a_grid(opset):
    taps = (Tap("h1", 1, 4, 4, stride=2), Tap("h2", 1, 5, 4, stride=3))
    full = classifier(opset, extra_outputs=("h1", "h2"))
    assert_statistics(classifier(opset), full, taps, images())


@pytest.mark.parametrize(
    ("side", "stride"), [(1, 1), (7, 1), (14, 1), (27, 2), (28, 2), (32, 2), (56, 4), (112, 8)]
)
def test_the_grid_keeps_enough_positions(side, stride):
    assert stride_for(side, side) == stride
    assert (-(-side // stride)) ** 2 >= min(side**2, GRID)


def test_the_grid_of_a_long_map():
    assert stride_for(1, 5000) == 25
    assert stride_for(196, 1) == 1


def test_scores_stand_beside_the_statistics():
    model, x = classifier(), images(5)
    found = run(augment(model, TAPS, ("mean",), scores="logits"), x)
    plain = run(model, x)["logits"]
    (added,) = [value for name, value in found.items() if name != "logits"]
    np.testing.assert_array_equal(added[:, -plain.shape[1] :], plain)
    assert added.shape[1] == sum(tap.length for tap in TAPS) + plain.shape[1]


def test_a_tensor_is_reduced_as_soon_as_it_is_there(tmp_path):
    """Else all of them are in memory at the end, which takes more than the model itself."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "run")
    content = augment(classifier(), TAPS, scores="logits").SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": images()})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    second = [i for i, op in enumerate(ran) if op in ("Conv", "FusedConv", "NhwcFusedConv")][1]
    assert sum(op == "GlobalAveragePool" for op in ran[:second]) == 2, ran
