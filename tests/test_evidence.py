"""Evidence of forgetting: intervals, attacks, recall, and verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import binom

import discedit_onnx as dx
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.evidence.accuracy import accuracy, goes_to, hidden
from discedit_onnx.evidence.attacks import discriminant, few_shots, halves, nearest, probe
from discedit_onnx.evidence.intervals import CONFIDENCE, area, share
from discedit_onnx.evidence.observing import Subject, observe
from discedit_onnx.evidence.recall import recall, reenabled, statistics
from discedit_onnx.evidence.verdict import Limits, Test, verdicts
from discedit_onnx.evidence.verify import edited_tensors, verify

SAMPLES = Path(__file__).parents[1] / "sample_models"
CLASSES, WIDTH, EACH = 4, 8, 24
GONE = 2
Test.__test__ = False


def network(normalised: bool) -> onnx.ModelProto:
    """A convolution by planted patterns, ReLU, pooling, and a head that reads each its class."""
    rng = np.random.default_rng(3)
    patterns = patterns_of()
    weight = np.concatenate([patterns, rng.normal(size=(WIDTH - CLASSES, CLASSES)) / 4])
    head = np.zeros((WIDTH, CLASSES))
    head[:CLASSES] = np.eye(CLASSES)
    tensors = {
        "w": weight[:, :, None, None], "b": np.zeros(WIDTH), "v": head, "c": np.zeros(CLASSES)
    }  # fmt: skip
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    if normalised:
        tensors |= {"g": np.ones(WIDTH), "s": np.zeros(WIDTH)}
        tensors |= {"mean": np.zeros(WIDTH), "var": np.ones(WIDTH)}
        nodes.append(helper.make_node("BatchNormalization", ["y", "g", "s", "mean", "var"], ["n"]))
    nodes += [
        helper.make_node("Relu", ["n" if normalised else "y"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CLASSES, 3, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def patterns_of():
    return 2 * np.eye(CLASSES)


def samples(seed=0):
    """Maps of a class's pattern with noise, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EACH)
    x = patterns_of()[labels][:, :, None, None] + rng.normal(
        scale=0.5, size=(len(labels), CLASSES, 3, 3)
    )
    return x.astype(np.float32), labels


@pytest.fixture(params=[False, True], ids=["folded", "normalised"])
def original(request, tmp_path):
    return saved(network(request.param), tmp_path / "original.onnx")


def saved(proto, path):
    onnx.save(proto, path)
    return dx.load(path)


def opened(model):
    x, labels = samples()
    return dx.open_data(model, [({"x": x[i : i + 8]}, labels[i : i + 8]) for i in range(0, 96, 8)])


def with_values(model, path, **changes):
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in changes:
            array = changes[tensor.name](numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return saved(proto, path)


def quieter(array):
    """The class's channel made a thousand times smaller: hidden, and still there."""
    array[GONE] *= 1e-3
    return array


@given(hits=st.integers(0, 40), others=st.integers(0, 40))
def test_share_inverts_binomial_tails(hits, others):
    count = hits + others
    found = share(np.arange(count) < hits)
    assert (found.hits, found.count) == (hits, count)
    tail = (1 - CONFIDENCE) / 2
    if hits > 0:
        assert binom.sf(hits - 1, count, found.low) == pytest.approx(tail, rel=1e-6)
    if hits < count:
        assert binom.cdf(hits, count, found.high) == pytest.approx(tail, rel=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_area_counts_pairs(positive, negative):
    p, n = np.array(positive, float), np.array(negative, float)
    pairs = (p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean()
    found = area(p, n)
    assert found.value == pytest.approx(pairs)
    assert found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_halves_split_every_class(labels):
    labels = np.array(labels)
    fitted = halves(labels)
    for k in range(4):
        own = fitted[labels == k]
        assert own.sum() - (~own).sum() in (0, 1)


def test_accuracy_with_a_hidden_logit_and_where_images_go():
    logits = np.array([[3.0, 2, 1], [3, 2, 1], [1, 3, 2], [1, 2, 3]])
    labels = np.array([0, 1, 1, 2])
    found = accuracy(logits, labels, [0])
    assert (found.forget.value, found.retain.hits, found.retain.count) == (1, 2, 3)
    without = accuracy(hidden(logits, [0]), labels, [0])
    assert (without.forget.value, without.retain.value) == (0, 1)
    assert goes_to(hidden(logits, [0]), labels, [0]).tolist() == [[0, 1, 0]]
    assert found.worst([0]) == 1


def test_attacks_find_a_class_that_is_there_and_not_one_that_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 200)
    there = np.eye(3)[labels] * 6 + rng.normal(size=(600, 3))
    assert probe(there, labels, [1]).value > 0.95
    assert nearest(there, labels, [1]).value > 0.95
    shots = few_shots(there, labels, [1])
    assert list(shots) == [1, 5, 10]
    assert shots[10].value > 0.9
    noise = rng.normal(size=(600, 3))
    assert probe(noise, labels, [1]).high < 0.6
    assert few_shots(there, labels, [1])[5] == shots[5]


def test_discriminant_does_not_divide_by_nothing():
    x = np.zeros((6, 2))
    assert set(discriminant(x, np.array([0, 0, 1, 1, 2, 2])).top(x)) <= {0, 1, 2}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_statistics_do_not_depend_on_batches(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(3, 2, (n, 2, 3)).astype(np.float32) for n in sizes]
    found = statistics(parts, 1)
    whole = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(found.mean, whole.mean(axis=(0, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.deviation, whole.std(axis=(0, 2)), rtol=1e-9)


def test_recall_brings_a_hidden_class_back(original, tmp_path):
    edited = with_values(original, tmp_path / "edited.onnx", w=quieter)
    found = verify(original, edited, opened(original), [GONE], device="cpu")
    assert found.before.forget.value > 0.95
    assert found.after.forget.value < 0.05
    assert found.recall.own.value > 0.9
    output, _, features = found.verdicts
    assert output.passed
    assert "recall attack" in [test.name for test in features.failed]


def test_recall_does_not_bring_back_what_is_gone(original, tmp_path):
    def silent(array):
        array[GONE] = 0
        return array

    edited = with_values(original, tmp_path / "edited.onnx", w=silent)
    data = opened(original)
    retained = data.take(np.flatnonzero(data.labels != GONE))
    a, b = (Subject.of(model, CLASSES, [GONE]) for model in (original, edited))
    attacked = recall(a, b, retained, "cpu")
    silenced = observe(attacked.subject, data, {"r": 1}, device="cpu").means["r"][:, GONE]
    assert np.ptp(silenced) == 0
    found = verify(original, edited, data, [GONE], device="cpu", brief=True)
    assert found.recall.old_head.value < 0.3
    assert found.goes_to[0, GONE] == found.after.forget.hits


def test_recall_gives_retained_images_the_statistics_of_the_original(tmp_path):
    original = saved(network(False), tmp_path / "original.onnx")
    edited = with_values(original, tmp_path / "edited.onnx", w=lambda w: quieter(w) + 0.1)
    data = opened(original)
    retained = data.take(np.flatnonzero(data.labels != GONE))
    a, b = (Subject.of(model, CLASSES, [GONE]) for model in (original, edited))
    attacked = recall(a, b, retained, "cpu")
    assert (attacked.attacked, attacked.skipped) == (1, 0)
    means = [observe(s, retained, {"y": 1}, device="cpu").means["y"].mean(axis=0)
             for s in (a, attacked.subject)]  # fmt: skip
    np.testing.assert_allclose(*means, atol=1e-5)


def test_suppressed_logit_is_told_from_forgotten_head(original, tmp_path):
    def suppressed(bias):
        bias[GONE] = -1e4
        return bias

    edited = with_values(original, tmp_path / "edited.onnx", c=suppressed)
    found = verify(original, edited, opened(original), [GONE], device="cpu", brief=True)
    assert [v.passed for v in found.verdicts] == [True, False, False]
    assert found.recall.logit.value > 0.95
    assert found.probed_after is None


def test_reenabled_leaves_retained_logits():
    rng = np.random.default_rng(0)
    logits, before = rng.normal(size=(2, 50, 3))
    changed = reenabled(logits, before, np.arange(50) < 30, [1])
    np.testing.assert_array_equal(changed[:, [0, 2]], logits[:, [0, 2]])
    assert changed[:30, 1].mean() == pytest.approx(before[:30, 1].mean())


def test_the_same_model_has_forgotten_nothing(original):
    found = verify(original, original, opened(original), [GONE], device="cpu")
    assert not any(verdict.passed for verdict in found.verdicts)
    assert found.witness_before == found.witness_after
    assert list(found.probed_after.probes) == ["last features"]


def test_edited_layers_are_found(original, tmp_path):
    edited = with_values(original, tmp_path / "edited.onnx", w=quieter, v=lambda v: v * 2)
    a, b = (Subject.of(model, CLASSES, [GONE]) for model in (original, edited))
    assert edited_tensors(a, b) == {"y": 1}


def test_reference_decides_on_probes(original, tmp_path):
    edited = with_values(original, tmp_path / "edited.onnx", w=quieter)
    blind = with_values(original, tmp_path / "blind.onnx", w=lambda w: w * 0 + 1)
    data = opened(original)
    found = verify(original, edited, data, [GONE], reference=blind, device="cpu")
    names = [test.name for test in found.verdicts[-1].failed]
    assert "linear probe at last features above the reference" in names
    same = verify(original, edited, data, [GONE], reference=edited, device="cpu")
    assert not any("reference" in test.name for test in same.verdicts[-1].failed)


def test_members_are_compared_with_held_out_images(original):
    data = opened(original)
    found = verify(original, original, data, [GONE], members=data, device="cpu")
    assert found.membership_after.area.value == 0.5
    assert "training images" in found.membership_after.compared


def test_without_images_of_a_kind(original):
    data = opened(original)
    with pytest.raises(DataError, match="images of 2"):
        verify(original, original, data.take(np.flatnonzero(data.labels != GONE)), [GONE])
    with pytest.raises(DataError, match="to stay"):
        verify(original, original, data.take(np.flatnonzero(data.labels == GONE)), [GONE])


def test_verdicts_are_nested_and_limits_checked():
    tests = [Test("output", "a", 0.0, 0.1), Test("head", "b", 0.2, 0.1),
             Test("features", "c", float("nan"), 0.1)]  # fmt: skip
    found = verdicts(tests)
    assert [v.passed for v in found] == [True, False, False]
    assert [t.name for t in found[2].tests] == ["a", "b"]
    with pytest.raises(UsageError, match="--max-recall"):
        Limits(recall=2)


def test_a_dropped_output_and_a_real_model(tmp_path):
    model = dx.load(SAMPLES / "fashion_resnet20.onnx")
    data = dx.open_data(model, SAMPLES / "fashion_mnist/test")
    data = data.take(np.flatnonzero(np.arange(len(data)) % 250 < 12))
    edit = dx.forget(model, None, [3], Way("head", drop_output=True), device="cpu")
    edited = replace(model, proto=edit.proto)
    found = verify(model, edited, data, [3], device="cpu")
    assert found.after.forget.hits == 0
    assert abs(found.after.retain.value - found.hidden.retain.value) < 0.02
    assert [v.passed for v in found.verdicts] == [True, True, False]
    assert found.recall.old_head.value > 0.8
    assert found.witness_after.bound == found.witness_before.bound
