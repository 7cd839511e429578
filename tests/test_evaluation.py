"""Evaluation: accuracy by class, latency, size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_models import CLASS_NAMES, classifier, saved, write_images

from discedit_onnx import evaluation, latency
from discedit_onnx.calibration.opening import open_data
from discedit_onnx.calibration.runner import open_session
from discedit_onnx.errors import DataError
from discedit_onnx.evaluation import evaluate
from discedit_onnx.graph.cost import count_parameters


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(latency, "TURN", 0.001)


@pytest.fixture
def model(tmp_path):
    return saved(classifier(), tmp_path)


@pytest.fixture
def data(model, tmp_path):
    return open_data(model, write_images(tmp_path / "images", (9, 5, 7)))


def predictions(data):
    feeds = next(data.batches(len(data))).feeds
    with open_session(classifier(), "cpu") as session:
        return session.run(["logits"], feeds)[0].argmax(axis=1)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_accuracy_counts_every_image(model, data, tmp_path, batch_size):
    found = evaluate(model, data, device="cpu", batch_size=batch_size)
    right = predictions(data) == data.labels
    assert found.top1 == right.mean()
    np.testing.assert_array_equal(found.count, [9, 5, 7])
    want = [right[data.labels == k].mean() for k in range(3)]
    np.testing.assert_allclose(found.per_class, want)
    assert found.class_names == CLASS_NAMES
    assert found.device == "cpu"
    assert found.file_size == (tmp_path / "model.onnx").stat().st_size
    assert found.parameters == 4 * 9 + 4 + 5 * 4 * 9 + 5 * 3


def test_a_model_that_is_always_right_or_wrong(tmp_path):
    """The second logit is made the largest, whatever the image."""
    proto = classifier()
    bias = helper.make_tensor("b3", TensorProto.FLOAT, [3], [0, 1e6, 0])
    proto.graph.initializer.append(bias)
    proto.graph.node[-1].input.append("b3")
    model = saved(proto, tmp_path)
    data = open_data(model, write_images(tmp_path / "images", (3, 1, 0)))
    found = evaluate(model, data, device="cpu")
    assert found.top1 == 0.25
    np.testing.assert_array_equal(found.per_class, [0, 1, np.nan])


def test_latency_at_both_batch_sizes_or_the_fixed_one(model, data, tmp_path):
    free = evaluate(model, data, device="cpu")
    assert list(free.latency_ms) == [1, 32]
    fixed = saved(classifier(batch=4), tmp_path, "fixed.onnx")
    found = evaluate(fixed, open_data(fixed, data.source.name), device="cpu")
    assert list(found.latency_ms) == [4]
    assert found.top1 == free.top1
    assert all(value > 0 for value in (*free.latency_ms.values(), *found.latency_ms.values()))


def test_latency_is_the_median_of_runs_in_turn(monkeypatch, model, data, tmp_path):
    """A clock that only the runs move: 10 and 30 ms each, and one outlier."""
    now, runs = [0.0], []

    class Slow:
        def __init__(self, proto, device):
            self.took = 0.03 if proto is other.proto else 0.01

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

        def run(self, outputs, feeds):
            runs.append((self.took, len(feeds["x"])))
            now[0] += 0.5 if len(runs) == 25 else self.took

    other = saved(classifier(), tmp_path, "other.onnx")
    monkeypatch.setattr(latency, "open_session", Slow)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(latency.time, "sleep", lambda _: None)
    monkeypatch.setattr(latency, "TURN", 0.1)
    seen = []
    found = evaluation.measure_latency(
        [model, other], [data, data], "cpu", lambda *done: seen.append(done)
    )
    assert found == [pytest.approx({1: 10, 32: 10}), pytest.approx({1: 30, 32: 30})]
    order = [took for (took, _), before in zip(runs[1:], runs, strict=False) if took != before[0]]
    assert len(order) >= 2 * 2 * evaluation.TURNS
    assert {size for _, size in runs} == {1, 32}
    assert seen == [(1, 2), (2, 2)]


def test_latency_of_models_that_take_other_batches(model, data, tmp_path):
    fixed = saved(classifier(batch=4), tmp_path, "fixed.onnx")
    samples = open_data(fixed, data.source.name)
    free, only = evaluation.measure_latency([model, fixed], [data, samples], "cpu")
    assert (list(free), list(only)) == ([1, 32], [4])


def test_parameters_are_floating_point_initializers():
    proto = classifier(dtype=TensorProto.FLOAT16)
    before = count_parameters(proto)
    proto.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [5], range(5)))
    assert count_parameters(proto) == before
    proto.graph.initializer.append(helper.make_tensor("s", TensorProto.FLOAT, [], [1.0]))
    assert count_parameters(proto) == before, "a scalar is a setting, not a parameter"
    proto.graph.initializer.append(helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0]))
    assert count_parameters(proto) == before + 2


def test_progress_and_bad_data(model, data):
    seen = []
    evaluate(model, data, device="cpu", batch_size=10, progress=lambda *done: seen.append(done))
    assert seen == [(10, 21), (20, 21), (21, 21)]
    data.source.files.paths[3].write_bytes(b"broken")
    with pytest.raises(DataError, match=r"3\.png: can't be read"):
        evaluate(model, data, device="cpu")
