"""Samples for choice and refit: how many, which, and views that stay on one side."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import classifier, saved, write_images

from discedit_onnx.calibration.opening import open_data
from discedit_onnx.editing.refit import batches as module
from discedit_onnx.editing.refit.batches import gather_batches, images_in
from discedit_onnx.editing.refit.sampling import HELD_OUT
from discedit_onnx.errors import DataError
from discedit_onnx.model import load


def images(tmp_path, counts, **options):
    model = saved(classifier(**options), tmp_path)
    channels = options.get("channels", 1)
    root = write_images(tmp_path / "data", counts, mode="L" if channels == 1 else "RGB")
    return open_data(model, root)


def ids(feeds):
    """The sample of each row of a model that is fed numbers."""
    return [value for part in feeds for value in part["x"][:, 0].astype(int)]


def rows(tmp_path, count, batch="N"):
    """A model of vectors, and samples that say which they are."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "vectors",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "v.onnx")
    x = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    return open_data(load(tmp_path / "v.onnx"), tmp_path / "x.npz")


def test_choice_and_judgement_share_no_sample(tmp_path):
    found = gather_batches(rows(tmp_path, 3000))
    choose, judge = set(ids(found.choose)), set(ids(found.judge))
    assert not choose & judge
    assert len(choose | judge) == module.CHOSEN_BY
    assert choose | judge < set(ids(found.refit))
    assert len(ids(found.refit)) == len(set(ids(found.refit))) == module.SHOWN
    assert len(judge) == module.CHOSEN_BY // module.JUDGES


@pytest.mark.parametrize(("counts", "views"), [((8, 8, 8), 4), ((3, 2, 2), 1)])
def test_no_image_is_held_out_in_some_views_only(tmp_path, counts, views):
    """Every eighth is held out, over all views: of seven images that would be another one each."""
    found = gather_batches(images(tmp_path, counts))
    assert images_in(found.refit) == views * sum(counts)


@pytest.mark.parametrize(("shown", "views"), [(40, 1), (60, 2), (80, 2), (200, 4)])
def test_views_fill_up_what_a_refit_sees(tmp_path, monkeypatch, shown, views):
    monkeypatch.setattr(module, "SHOWN", shown)
    found = gather_batches(images(tmp_path, (16, 16, 8)))
    assert images_in(found.refit) == 40 * views


@pytest.mark.parametrize("count", [4, 7, 30])
def test_few_samples_are_split_all_the_same(tmp_path, count):
    found = gather_batches(rows(tmp_path, count))
    assert found.choose
    assert found.judge
    assert not set(ids(found.choose)) & set(ids(found.judge))


@pytest.mark.parametrize(("count", "batch"), [(100, "N"), (100, 1), (50, 2), (3, 1)])
def test_fixed_and_open_batches(tmp_path, count, batch):
    found = gather_batches(rows(tmp_path, count, batch))
    if batch != "N":
        assert {len(part["x"]) for part in found.refit} == {batch}
    if count >= HELD_OUT:
        assert images_in(found.refit) % HELD_OUT == 0
        assert images_in(found.refit) > count / 2
    assert found.judge


def test_one_sample_is_better_than_none(tmp_path):
    found = gather_batches(rows(tmp_path, 1))
    assert found.choose
    assert found.judge


def test_seeds(tmp_path):
    data = rows(tmp_path, 1000)
    first, again, other = (ids(gather_batches(data, seed).refit) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("channels_last", [False, True])
def test_views(tmp_path, channels_last):
    """Each image, mirrored and moved; one held-out image is held out in all its views."""
    data = images(tmp_path, (16, 16, 8), channels=3, channels_last=channels_last)
    found = gather_batches(data)
    (name,) = found.refit[0]
    every = np.concatenate([part[name] for part in found.refit])
    assert len(every) == 40 * module.VIEWS
    columns, lines = (2, 1) if channels_last else (3, 2)
    plain, mirrored, *moved = every.reshape(module.VIEWS, 40, *every.shape[1:])
    np.testing.assert_array_equal(mirrored, np.flip(plain, columns))
    for view, source in zip(moved, (plain, mirrored), strict=True):
        steps = {
            next(
                (a, b)
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
                if np.array_equal(seen, shifted(image, a, b, lines - 1, columns - 1))
            )
            for seen, image in zip(view, source, strict=True)
        }
        assert len(steps) > 1  # each image its own way
    assert 40 % HELD_OUT == 0  # the k-th image of each view is on the same side of the split


def shifted(image, down, right, row_axis, column_axis):
    for axis, step in ((row_axis, down), (column_axis, right)):
        places = np.clip(np.arange(image.shape[axis]) + step, 0, image.shape[axis] - 1)
        image = np.take(image, places, axis)
    return image


def test_large_inputs_are_taken_as_far_as_memory_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 2000)
    monkeypatch.setattr(module, "BATCH", 16)
    data = rows(tmp_path, 1000)
    found = gather_batches(data)
    assert images_in(found.refit) * 8 <= 2000 + 16 * 8
    assert found.judge


@pytest.mark.parametrize("batch", ["N", 1, 3])
@pytest.mark.parametrize("run", [1, 11])
def test_where_memory_ends_whole_turns_are_left(tmp_path, monkeypatch, batch, run):
    """Every eighth sample is held out in each view: only then it is the same one."""
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(module, "RUN_BYTES", 8 * run)
    found = gather_batches(rows(tmp_path, 1000, batch))
    assert images_in(found.refit) % HELD_OUT == 0
    assert module.LEAST <= images_in(found.refit) < module.LEAST + 3 * HELD_OUT


@pytest.mark.parametrize(("most", "views"), [(4, 4), (3, 3), (1, 1), (0.6, 1)])
def test_views_count_as_memory(tmp_path, monkeypatch, most, views):
    data = images(tmp_path, (16, 16, 8))
    (feeds,) = data.batches(40)
    size = sum(values.nbytes for values in feeds.feeds.values())
    monkeypatch.setattr(module, "MOST_BYTES", int(most * size))
    assert images_in(gather_batches(data).refit) == 40 * views


def test_large_images_are_run_some_at_a_time(tmp_path, monkeypatch):
    data = images(tmp_path, (16, 16, 8))
    usual = gather_batches(data)
    (values,) = usual.refit[0].values()
    monkeypatch.setattr(module, "RUN_BYTES", 3 * values[0].nbytes)
    found = gather_batches(data)
    assert max(len(part) for feeds in found.refit for part in feeds.values()) == 3
    assert images_in(found.refit) == images_in(usual.refit)
    assert images_in(found.choose) + images_in(found.judge) == 40


def test_less_than_a_batch_is_refused(tmp_path):
    with pytest.raises(DataError, match="fill no batch of 4"):
        gather_batches(rows(tmp_path, 3, 4))
