"""Gates: what is measured, when they hold, and what their intervals are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_models import classifier, saved, taught, write_images

import discedit_onnx as dx
from discedit_onnx import gates, latency
from discedit_onnx.editing.budget import Budget
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.gates import Gates, Verdict, check


@pytest.fixture
def world(tmp_path):
    """A tiny classifier, what is left of it when class `ant` can't win, and its images."""
    data = write_images(tmp_path / "data")
    model = saved(taught(classifier(), data), tmp_path)
    mute = classifier()
    mute.CopyFrom(model.proto)
    mute.graph.node[-1].input.append("floor")
    floor = np.array([-1e6, 0, 0], np.float32)
    mute.graph.initializer.add(name="floor", dims=[3], data_type=1, raw_data=floor.tobytes())
    return model, saved(mute, tmp_path, "mute.onnx"), data


def opened(model, data):
    return dx.open_data(model, data)


def test_what_is_measured_is_what_evaluate_measures(world):
    model, mute, data = world
    full, less = (dx.evaluate(m, opened(m, data), latency=False) for m in (model, mute))
    accuracy, drop = check(
        mute, Gates(min_accuracy=1.0, max_drop=0.0),
        base=model, data=opened(mute, data), base_data=opened(model, data),
    )  # fmt: skip
    assert accuracy.found == pytest.approx(less.top1)
    assert drop.found == pytest.approx(full.top1 - less.top1)
    assert accuracy.interval[0] <= less.top1 <= accuracy.interval[1]


def test_forgotten_classes_are_apart(world):
    model, mute, data = world
    full, less = (dx.evaluate(m, opened(m, data), latency=False) for m in (model, mute))
    accuracy, drop, forgotten = check(
        mute, Gates(min_accuracy=0.0, max_drop=0.9, forgotten={"ant": 0.0}),
        base=model, data=opened(mute, data), base_data=opened(model, data),
    )  # fmt: skip
    assert accuracy.found == pytest.approx(less.accuracy_of([1, 2]))
    assert drop.found == pytest.approx(full.accuracy_of([1, 2]) - less.accuracy_of([1, 2]))
    assert (forgotten.gate, forgotten.found, forgotten.passed) == ("forgotten ant", 0.0, True)
    (kept,) = check(model, Gates(forgotten={"0": 0.0}), data=opened(model, data))
    assert kept.found == pytest.approx(full.per_class[0])
    assert kept.missed_by == pytest.approx(full.per_class[0])


def test_size_in_bytes_and_as_a_share(world):
    model, mute, _ = world
    (exact,) = check(mute, Gates(max_size=Budget("size", mute.file_size, absolute=True)))
    assert exact.passed
    (share,) = check(mute, Gates(max_size=Budget("size", 0.5)), base=model)
    assert share.limit == model.file_size / 2
    assert share.missed_by == mute.file_size - model.file_size / 2


def test_latency_is_a_ratio_of_both_in_turns(world, monkeypatch):
    model, mute, _ = world
    asked = []

    def measured(models, feeds, device):
        asked.append((models, [[len(values) for values in one.values()] for one in feeds]))
        return 2.0, 1.5

    monkeypatch.setattr(gates, "latencies", measured)
    (verdict,) = check(mute, Gates(max_latency_ratio=0.7), base=model)
    assert asked == [([model.proto, mute.proto], [[1], [1]])]
    assert verdict.found == 0.75
    assert verdict.missed_by == pytest.approx(0.05)


def test_latency_of_a_model_and_itself(world, monkeypatch):
    monkeypatch.setattr(latency, "TURN", 0.005)
    model, _, _ = world
    (verdict,) = check(model, Gates(max_latency_ratio=20.0), base=model)
    assert verdict.passed


@pytest.mark.parametrize(
    ("wanted", "base", "data", "words"),
    [
        (Gates(), True, True, "give a gate"),
        (Gates(min_accuracy=0.5), True, False, "--data"),
        (Gates(forgotten={"0": 0.1}), True, False, "--data"),
        (Gates(max_drop=0.5), True, False, "--data"),
        (Gates(max_drop=0.5), False, True, "--against"),
        (Gates(max_size=Budget("size", 0.5)), False, True, "--against"),
        (Gates(max_latency_ratio=0.5), False, True, "--against"),
    ],
)
def test_what_can_not_be_evaluated(wanted, base, data, words):
    with pytest.raises(UsageError, match=words):
        wanted.require_sources(base, data)


def test_no_gate_is_passed_over_in_silence(world):
    model, mute, data = world
    with pytest.raises(UsageError, match="base_data"):
        check(mute, Gates(max_drop=0.0), base=model, data=opened(mute, data))


def test_classes_without_images(world):
    model, _, data = world
    samples = opened(model, data)
    ants = samples.take(np.flatnonzero(samples.labels == 0))
    with pytest.raises(UsageError, match="no such images"):
        check(model, Gates(min_accuracy=0.5, forgotten={"ant": 1}), data=ants)
    with pytest.raises(UsageError, match="no such images"):
        check(model, Gates(forgotten={"bee": 1}), data=ants)
    with pytest.raises(UsageError, match="no class 'wasp'"):
        check(model, Gates(forgotten={"wasp": 1}), data=ants)


def test_images_that_are_not_the_same(world):
    model, mute, data = world
    samples = opened(mute, data)
    with pytest.raises(DataError, match="same classes"):
        check(
            mute, Gates(max_drop=0.5), base=model,
            data=samples, base_data=opened(model, data).take(np.arange(3)),
        )  # fmt: skip


@given(
    arrays(bool, st.shared(st.integers(1, 60), key="n")),
    arrays(bool, st.shared(st.integers(1, 60), key="n")),
)
def test_the_drop_and_its_interval(before, after):
    verdict = gates._drop(0.0, before, after, "images")
    low, high = verdict.interval
    assert verdict.found == pytest.approx(before.mean() - after.mean(), abs=1e-12)
    assert -1 <= low <= verdict.found <= high <= 1


@pytest.mark.parametrize(("lost", "won"), [(0.03, 0.01), (0.1, 0.1), (0.2, 0.02)])
def test_the_interval_of_a_drop_covers_the_truth(lost, won):
    rng, trials, images = np.random.default_rng(0), 1000, 300
    cells = rng.choice(3, p=[lost, won, 1 - lost - won], size=(trials, images))
    hits = 0
    for row in cells:
        low, high = gates._drop(0.0, row == 0, row == 1, "images").interval
        hits += low <= lost - won <= high
    assert 0.93 <= hits / trials <= 0.99


@settings(max_examples=50)
@given(
    st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from(["share", "bytes", "ratio"])
)
def test_a_gate_holds_where_nothing_is_missed(found, limit, at_least, unit):
    verdict = Verdict("g", "s", found, limit, unit, at_least)
    assert verdict.passed == (found >= limit if at_least else found <= limit)
    assert verdict.missed_by == (0 if verdict.passed else abs(found - limit))


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_accuracy": float("nan")},
        {"min_accuracy": 95},
        {"max_drop": -1},
        {"max_drop": 1},
        {"max_drop": float("nan")},
        {"max_latency_ratio": float("nan")},
        {"max_latency_ratio": float("inf")},
        {"max_latency_ratio": 0},
        {"forgotten": {"ant": float("nan")}},
    ],
)
def test_limits_that_are_none(wrong):
    with pytest.raises(UsageError, match="give a"):
        Gates(**wrong)


def test_a_class_by_name_and_by_index_is_one(world):
    model, _, data = world
    with pytest.raises(UsageError, match="class ant is named twice"):
        check(model, Gates(forgotten={"0": 0.1, "ant": 1}), data=opened(model, data))
