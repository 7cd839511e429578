"""Calibration in parts: shards, checkpoints, classes that are kept, labels that are predicted."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from tiny_models import CLASS_NAMES, TAPS, classifier, saved, write_images

from discedit_onnx.calibration import gathering, lanes, tapped
from discedit_onnx.calibration.checkpoint import Checkpoint, Interrupted
from discedit_onnx.calibration.gathering import (
    Wanted,
    calibrate,
    gather,
    open_run,
    plan_run,
)
from discedit_onnx.calibration.histograms import fold_of, pilot_of
from discedit_onnx.calibration.opening import open_data
from discedit_onnx.calibration.shards import Shard
from discedit_onnx.calibration.tapped import TappedModel
from discedit_onnx.calibration.taps import FEATURES
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.interruption import signals_deferred


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    proto = classifier()
    helper.set_model_props(proto, {"discedit.class_names": json.dumps(CLASS_NAMES)})
    return saved(proto, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return open_data(model, write_images(tmp_path_factory.mktemp("images"), (15, 14, 12)))


def gathered(model, data, **options):
    return calibrate(model, data, TAPS, device="cpu", **{"batch_size": 4, **options})


def assert_equal(a, b, tolerance=1e-12):
    """Equal in all that is counted, and to a share of each feature's spread in what is not."""
    np.testing.assert_array_equal(a.count, b.count)
    assert a.correct == b.correct
    deviation = np.sqrt(np.diagonal(b.comoment, axis1=-2, axis2=-1))
    assert (np.abs(a.mean - b.mean) <= tolerance * (np.abs(b.mean) + deviation)).all()
    size = deviation[..., :, None] * deviation[..., None, :]
    assert (np.abs(a.comoment - b.comoment) <= tolerance * (size + 1e-300)).all()
    assert (a.histograms is None) == (b.histograms is None)
    if a.histograms is not None:
        np.testing.assert_array_equal(a.histograms.edges, b.histograms.edges)
        np.testing.assert_array_equal(a.histograms.counts, b.histograms.counts)
    assert a.second.keys() == b.second.keys()
    for name, part in a.second.items():
        np.testing.assert_allclose(part.comoment, b.second[name].comoment, rtol=1e-9, atol=1e-9)


def test_histograms_count_all_but_the_pilot_in_two_folds(model, data):
    moments = gathered(model, data)
    pilot = pilot_of(len(data))
    assert len(pilot) == len(data) // 8
    counted = np.setdiff1d(np.arange(len(data)), pilot)
    for fold in (0, 1):
        rows = counted[fold_of(counted) == fold]
        want = np.bincount(data.labels[rows], minlength=3)
        found = moments.histograms.counts[fold].sum(axis=2)
        np.testing.assert_array_equal(found, np.tile(want[:, None], (1, 14)))
    assert moments.count.sum() == len(data), "the pilot is counted in the moments"


@pytest.mark.parametrize("cores", [2, 3])
def test_parts_of_batches_that_run_side_by_side_are_added_in_order(model, data, cores, monkeypatch):
    want = gathered(model, data, batch_size=12)
    monkeypatch.setattr(lanes, "cores", lambda: cores)
    assert lanes.lanes_for(data, 12) == cores
    done = []
    found = gathered(model, data, batch_size=12, progress=lambda n, _: done.append(n))
    assert_equal(found, want, 1e-6)
    assert done[:2] == [12, 24], "what a batch gives is added up together"
    assert done[-1] == len(data)
    assert lanes.lanes_for(data, 7) == 1


def test_values_leave_the_graph_in_small_parts_on_the_cpu_alone(model, data, monkeypatch):
    """A device is fed whole batches; here those of a few parts are in memory at a time."""
    monkeypatch.setattr(tapped, "WIDE", 0)
    monkeypatch.setattr(lanes, "BYTES", 1)
    done: list[int] = []
    run = plan_run(model, data, TAPS, Wanted(second=True), batch_size=32)
    with open_run(model, run, device="cpu") as opened:
        for device, first in (("cpu", lanes.VALUES), ("coreml", 32 // len(opened.bindings))):
            opened.session.device = device
            done.clear()
            gather(run, opened, progress=lambda n, _: done.append(n))
            assert done[0] == first


def test_matrices_of_pieces_are_added_up_with_their_batch(model, data, monkeypatch):
    want = gathered(model, data, wanted=Wanted(second=True), batch_size=8).second
    monkeypatch.setattr(tapped, "BESIDE", 1)
    done: list[int] = []
    found = gathered(
        model, data, wanted=Wanted(second=True), batch_size=32,
        progress=lambda n, _: done.append(n),
    ).second  # fmt: skip
    assert done[0] == 32
    for name, part in want.items():
        assert found[name].count == part.count
        np.testing.assert_allclose(found[name].mean, part.mean, rtol=1e-5, atol=1e-6)
        size = np.sqrt(np.diag(part.comoment))
        assert (np.abs(found[name].comoment - part.comoment) <= 1e-5 * np.outer(size, size)).all()


def test_the_edges_are_quantiles_of_the_pilot(model, data):
    pilot = data.take(pilot_of(len(data)))
    few = gathered(model, pilot)
    edges = gathered(model, data).histograms.edges
    mean = np.average(few.mean[:, :, 0], axis=0, weights=few.count)
    assert (edges[:, 0] <= mean).all()
    assert (edges[:, -1] >= mean).all()
    assert (np.diff(edges, axis=1) >= 0).all()
    assert (edges == edges.astype(np.float32)).all()


def test_given_edges_are_used_and_every_sample_is_counted(model, data):
    edges = gathered(model, data).histograms.edges + 0.125
    moments = gathered(model, data, wanted=Wanted(edges=edges))
    np.testing.assert_array_equal(moments.histograms.edges, edges)
    assert moments.histograms.counts[:, :, 0].sum() == len(data)
    with pytest.raises(UsageError, match="--edges"):
        gathered(model, data, wanted=Wanted(edges=edges[1:]))


def test_edges_that_bins_can_not_have(model, data):
    """Bins are numbered in eight bits, and of edges that do not ascend some hold nothing."""
    edges = np.zeros((sum(tap.length for tap in TAPS), 3), np.float32)
    for row, says in {
        (0, 1, np.nan): "finite",
        (0, 2, 1): "ascend",
        (0, 1, 1e39): "finite",
    }.items():
        with pytest.raises(UsageError, match=rf"--edges: .*{says}.*give"):
            Wanted(edges=np.broadcast_to(np.array(row), edges.shape))
    for wrong in (edges[:, 0], edges[..., None], edges[:, :0], np.zeros((len(edges), 256))):
        with pytest.raises(UsageError, match=r"--edges: .* 1 to 255 .*give"):
            Wanted(edges=wrong)
    many = np.broadcast_to(np.linspace(-5, -4, 255, dtype=np.float32), (len(edges), 255))
    counted = gathered(model, data, wanted=Wanted(edges=many)).histograms
    assert counted.counts[:, :, 0, 255].sum() == len(data)
    assert Wanted(edges=edges).edges is edges, "equal ones are those of a channel that is dead"


@pytest.mark.parametrize("of", [1, 2, 3, 7, 20])
def test_shards_merge_to_the_single_run(model, data, of):
    wanted = Wanted(second=True)
    whole = gathered(model, data, wanted=wanted)
    parts = [gathered(model, data, wanted=wanted, shard=Shard(i, of)) for i in range(1, of + 1)]
    joined = parts[-1]
    for part in parts[:-1]:
        joined = joined.merge(part)
    assert_equal(joined, whole)
    assert joined.facts == whole.facts


def test_a_shard_counts_once(model, data):
    """Merged by hand, one is easily given twice; of other data, it is another one."""
    first, second, third = (gathered(model, data, shard=Shard(i, 3)) for i in (1, 2, 3))
    two = first.merge(third)
    assert [part.partition(" of ")[0] for part in two.facts["shards"].split("; ")] == ["1/3", "3/3"]
    for again in (two.merge, first.merge):
        with pytest.raises(DataError, match=r"shard 1/3 of [0-9a-f]{8} is in both"):
            again(first)
    assert "shards" not in two.merge(second).facts
    wanted = Wanted(edges=first.histograms.edges)
    other = gathered(model, data.take(np.arange(20)), shard=Shard(1, 3), wanted=wanted)
    both = first.merge(other)
    assert both.count.sum() == first.count.sum() + other.count.sum()
    assert len(both.facts["shards"].split("; ")) == 2


@pytest.mark.parametrize(("total", "size", "of"), [(41, 4, 3), (3, 4, 5), (64, 8, 8), (1, 1, 1)])
def test_shards_cover_every_sample_once_in_whole_batches(total, size, of):
    parts = [Shard(i, of).places(total, size) for i in range(1, of + 1)]
    assert np.concatenate(parts).tolist() == list(range(total))
    assert all(part[0] % size == 0 for part in parts if len(part))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", ""])
def test_shards_that_are_not_there(text):
    with pytest.raises(UsageError, match="i/n"):
        Shard.parse(text)


@pytest.mark.parametrize("both", [(0, 3), (4, 3), (3, 2), (1, 0), (-1, 3)])
def test_shards_that_are_made_wrong(both):
    """Of one that is not there, all that comes is no samples."""
    with pytest.raises(UsageError, match=f"--shard {both[0]}/{both[1]}: give it as i/n"):
        Shard(*both)


def test_all_features_and_classes_that_are_kept(model, data):
    whole = gathered(model, data, wanted=Wanted(features=FEATURES))
    assert whole.features == FEATURES
    some = gathered(model, data, wanted=Wanted(classes=(2,)))
    assert some.class_names == ("cat", "(other)")
    assert some.count.tolist() == [12, 29]
    assert some.facts["kept"] == "1 classes, 2 pooled"
    np.testing.assert_allclose(some.mean[0], whole.select(some.features).mean[2], rtol=1e-9)


def test_labels_that_the_model_predicts(model, data):
    unlabelled = replace(data, labels=np.full(len(data), -1), predicted=True)
    moments = gathered(model, unlabelled)
    assert moments.accuracy is None
    assert moments.count.sum() == len(data)
    agree = gathered(model, data).correct
    assert agree == sum(
        (moments_labels == data.labels).sum() for moments_labels in [_predicted(model, data)]
    )
    np.testing.assert_array_equal(moments.count, np.bincount(_predicted(model, data), minlength=3))


def _predicted(model, data):
    from discedit_onnx.calibration.runner import open_session, run_batches

    with open_session(model.proto, "cpu") as session:
        found = run_batches(session, ["logits"], data, batch_size=4)
        return np.concatenate([scores.argmax(axis=1) for (scores,), _ in found])


def test_a_run_without_labels_is_refused(model, data):
    with pytest.raises(DataError, match="--labels predicted"):
        gathered(model, replace(data, labels=np.full(len(data), -1)))


# Checkpoints


def stop_after(batches):
    """A progress that sends this process SIGINT once so many batches of four are done."""

    def stop(done, total):
        if done == 4 * batches:
            signal.raise_signal(signal.SIGINT)

    return stop


def counted(monkeypatch):
    """The batches that are added from now on."""
    seen = []
    add = gathering.add

    def counting(*arguments):
        seen.append(arguments[2])
        add(*arguments)

    monkeypatch.setattr(gathering, "add", counting)
    return seen


@pytest.mark.parametrize("batches", [1, 5, 10])
def test_an_interrupted_run_goes_on_where_it_ended(model, data, tmp_path, monkeypatch, batches):
    wanted = Wanted(second=True)
    whole = gathered(model, data, wanted=wanted)
    checkpoint = Checkpoint.beside(tmp_path / "m")
    handler = signal.getsignal(signal.SIGINT)  # ignored in what a shell runs in the background
    with pytest.raises(Interrupted, match=f"{4 * batches} of 41 samples are kept") as caught:
        gathered(model, data, wanted=wanted, checkpoint=checkpoint, progress=stop_after(batches))
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is handler
    again = Checkpoint.beside(tmp_path / "m")
    seen = counted(monkeypatch)
    found = gathered(model, data, wanted=wanted, checkpoint=again)
    assert again.resumed == 4 * batches
    assert sum(map(len, seen)) == 41 - 4 * batches, "nothing is run twice"
    assert_equal(found, whole, 0)
    assert found.facts == whole.facts


def test_what_another_run_left_is_of_no_use(model, data, tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "m")
    with pytest.raises(Interrupted):
        gathered(model, data, checkpoint=checkpoint, progress=stop_after(3))
    kept = checkpoint.path.read_bytes()
    others = [
        {"batch_size": 5},
        {"shard": Shard(1, 2)},
        {"wanted": Wanted(features=FEATURES)},
        {"wanted": Wanted(second=True)},
        {"data": data.take(np.arange(40))},
        {"data": replace(data, labels=data.labels[::-1].copy())},
    ]
    for other in others:
        again = Checkpoint.beside(tmp_path / "m")
        options = {"data": data, "checkpoint": again, **other}
        gathered(model, **options)
        assert not again.resumed, other
    for content in (b"", kept[:-1], b"x" * 100):
        checkpoint.path.write_bytes(content)
        again = Checkpoint.beside(tmp_path / "m")
        assert_equal(gathered(model, data, checkpoint=again), gathered(model, data), 0)
        assert not again.resumed


def test_a_checkpoint_is_written_at_each_interval(model, data, tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "m", interval=0)
    saves = []
    save = checkpoint.save
    checkpoint.save = lambda moments, done, run: (saves.append(done), save(moments, done, run))
    gathered(model, data, checkpoint=checkpoint)
    assert saves == [*range(4, 41, 4), 41]
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
    slow = Checkpoint.beside(tmp_path / "m", interval=1000)
    gathered(model, data, checkpoint=slow)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_added_while_the_model_runs_on_the_next(model, data, monkeypatch):
    begun, next_one, met, done = threading.Event(), threading.Event(), [], []
    add, observe = gathering.add, TappedModel.observe

    def waiting(*arguments):
        if not begun.is_set():
            begun.set()
            met.append(next_one.wait(30))
        add(*arguments)

    def watched(tapped, feeds):
        if done:  # the first batch is with the other thread
            assert begun.wait(30)
            next_one.set()
        return observe(tapped, feeds)

    monkeypatch.setattr(gathering, "add", waiting)
    monkeypatch.setattr(TappedModel, "observe", watched)
    found = gathered(model, data, progress=lambda *now: done.append(now))
    assert met == [True]
    assert found.count.sum() == len(data)


def test_what_goes_wrong_while_adding_ends_the_run(model, data, monkeypatch):
    def fail(*arguments):
        raise DataError("no good")

    monkeypatch.setattr(gathering, "add", fail)
    with pytest.raises(DataError, match="no good"):
        gathered(model, data)


def test_in_another_thread_nothing_is_deferred_and_nothing_breaks(model, data, tmp_path):
    done = []

    def work():
        with signals_deferred() as asked:
            done.append(asked.signal)
        done.append(gathered(model, data, checkpoint=Checkpoint.beside(tmp_path / "m")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done[0] == 0
    assert_equal(done[1], gathered(model, data), 0)
