"""The monoid of moments: exactness and stability."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discedit_onnx.calibration.accumulator import Accumulator
from discedit_onnx.calibration.histograms import Histograms, fold_of, quantile_edges
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.second import SecondMoments
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError

TAPS = (Tap("relu1", 1, 3, 4), Tap("fc", 1, 2, 2))
CLASSES = ("cat", "dog", "owl", "newt")
CHANNELS = sum(tap.length for tap in TAPS)
FEATURES = ("mean", "mean_square")
EDGES = quantile_edges(np.random.default_rng(0).normal(size=(40, CHANNELS)), bins=8)

seeds = st.integers(0, 2**32 - 1)


def empty(**facts: str) -> Moments:
    return Moments.empty(TAPS, CLASSES, "0" * 64, facts, features=FEATURES)


def images(seed: int, number: int = 60, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Random features, of channels and classes with different scales, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), number)
    scale = 10.0 ** rng.uniform(-3, 3, (1, CHANNELS, len(FEATURES)))
    noise = rng.normal(size=(number, CHANNELS, len(FEATURES)))
    return (noise + rng.normal(size=noise.shape[1:]) * labels[:, None, None] + mean) * scale, labels


def gather(features: np.ndarray, labels: np.ndarray, cuts: list[int]) -> Moments:
    """Moments of the images, updated in the batches that the cuts make."""
    gathered = Accumulator(empty())
    for part, of in zip(np.split(features, cuts), np.split(labels, cuts), strict=True):
        gathered.update(part, of)
    return gathered.moments


def direct(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and co-moment of some images, in two passes and extended precision."""
    wide = features.astype(np.longdouble)
    mean = wide.mean(axis=0)
    return mean.astype(float), np.einsum("nci,ncj->cij", wide - mean, wide - mean).astype(float)


def assert_close(a: Moments, b: Moments, tolerance: float = 1e-12) -> None:
    """Equal to a share of each feature's own size and spread."""
    np.testing.assert_array_equal(a.count, b.count)
    deviation = np.sqrt(np.diagonal(b.comoment, axis1=-2, axis2=-1))
    size = np.abs(b.mean) + deviation
    assert (np.abs(a.mean - b.mean) <= tolerance * size).all()
    spread = deviation[..., :, None] * deviation[..., None, :]
    assert (np.abs(a.comoment - b.comoment) <= tolerance * spread).all()


def test_empty_has_the_documented_shapes() -> None:
    moments = empty(device="cpu")
    assert moments.count.shape == (4,)
    assert moments.count.dtype == np.int64
    assert moments.mean.shape == (4, 5, 2)
    assert moments.comoment.shape == (4, 5, 2, 2)
    assert moments.mean.dtype == moments.comoment.dtype == np.float64
    assert moments.facts == {"device": "cpu"}
    assert moments.slices == {"relu1": slice(0, 3), "fc": slice(3, 5)}


@given(seeds)
def test_update_equals_the_textbook(seed: int) -> None:
    features, labels = images(seed)
    moments = empty().update(features, labels)
    np.testing.assert_array_equal(moments.count, np.bincount(labels, minlength=4))
    for k in np.unique(labels):
        mean, comoment = direct(features[labels == k])
        np.testing.assert_allclose(moments.mean[k], mean, rtol=1e-9)
        np.testing.assert_allclose(
            moments.comoment[k], comoment, rtol=1e-9, atol=1e-12 * comoment.max()
        )


@pytest.mark.parametrize("size", [1e6, 1e12, 3e38])
def test_an_image_that_comes_first_spoils_no_other_class(size: float) -> None:
    features, labels = images(3)
    labels[:] = 1 + labels % 3
    alone = empty().update(features, labels)
    outlier = np.full_like(features[:1], size)
    both = empty().update(np.concatenate([outlier, features]), np.concatenate([[0], labels]))
    np.testing.assert_allclose(both.mean[1:], alone.mean[1:], rtol=1e-12)
    sizes = np.sqrt(np.einsum("kcii->kci", alone.comoment[1:]))
    missed = np.abs(both.comoment[1:] - alone.comoment[1:])
    assert (missed <= 1e-12 * sizes[..., None] * sizes[..., None, :]).all()


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_an_outlier_alone_in_the_first_batch_costs_no_digits(size: float) -> None:
    """What follows is taken relative to it, and it is far from everything."""
    features, labels = images(5)
    labels[:] = 2
    features[0] = size
    assert_close(gather(features, labels, [1]), gather(features, labels, []))


def test_covariance_divides_by_n() -> None:
    features, labels = images(1)
    covariance = empty().update(features, labels).covariance
    expected = np.cov(features[labels == 2, 4].T, bias=True)
    np.testing.assert_allclose(covariance[2, 4], expected, rtol=1e-12)


def test_update_leaves_the_old_moments_alone() -> None:
    features, labels = images(2)
    old = empty()
    assert old.update(features, labels).count.sum() == len(labels)
    assert not old.count.any()
    assert not old.mean.any()


@given(seeds, st.lists(st.integers(0, 60), max_size=8).map(sorted))
def test_any_split_into_batches_gives_the_same(seed: int, cuts: list[int]) -> None:
    features, labels = images(seed)
    assert_close(gather(features, labels, cuts), gather(features, labels, []))


def test_float32_features_are_summed_in_float64() -> None:
    features, labels = images(3)
    narrow = features.astype(np.float32)
    assert_close(gather(narrow, labels, [7]), gather(narrow.astype(np.float64), labels, []))


@given(seeds)
def test_merge_is_commutative_and_associative(seed: int) -> None:
    a, b, c = (gather(*images(seed + i, 20), []) for i in range(3))
    assert_close(a.merge(b), b.merge(a))
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_empty_is_neutral() -> None:
    moments = gather(*images(4), [])
    for joined in (moments.merge(empty()), empty().merge(moments)):
        np.testing.assert_array_equal(joined.count, moments.count)
        np.testing.assert_array_equal(joined.mean, moments.mean)
        np.testing.assert_array_equal(joined.comoment, moments.comoment)


@given(seeds)
@settings(max_examples=25)
def test_a_mean_of_a_million_deviations_costs_no_digits(seed: int) -> None:
    features, labels = images(seed, mean=1e6)
    cut = gather(features, labels, list(range(7, 60, 7)))
    for k in np.unique(labels):
        _, comoment = direct(features[labels == k])
        variance = np.diagonal(comoment, axis1=-2, axis2=-1)
        found = np.diagonal(cut.comoment[k], axis1=-2, axis2=-1)
        np.testing.assert_allclose(found, variance, rtol=1e-9, atol=1e-20)


def test_a_constant_feature_has_exactly_its_value_and_no_spread() -> None:
    features = np.full((50, CHANNELS, 2), 0.1)
    labels = np.arange(50) % 4
    moments = gather(features, labels, [3, 10, 11, 40])
    assert (moments.mean == 0.1).all()
    assert not moments.comoment.any()


def test_select_picks_features_by_name() -> None:
    moments = gather(*images(7), [])
    chosen = moments.select(("mean_square",))
    assert chosen.features == ("mean_square",)
    np.testing.assert_array_equal(chosen.mean, moments.mean[..., 1:])
    np.testing.assert_array_equal(chosen.comoment, moments.comoment[..., 1:, 1:])
    swapped = moments.select(("mean_square", "mean"))
    np.testing.assert_array_equal(swapped.comoment, moments.comoment[..., ::-1, ::-1])
    with pytest.raises(DataError, match="'max'"):
        moments.select(("max",))


def test_update_refuses_what_does_not_fit() -> None:
    features, labels = images(8)
    with pytest.raises(ValueError, match="features are"):
        empty().update(features[:, :4], labels)
    with pytest.raises(ValueError, match="features are"):
        empty().update(features, labels[:-1])
    for wrong in (-1, 4):
        with pytest.raises(DataError, match="4 classes"):
            empty().update(features, np.full(60, wrong))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_update_names_a_tensor_that_is_not_finite(value: float) -> None:
    features, labels = images(9)
    features[13, 3, 1] = value
    with pytest.raises(DataError, match="'fc'"):
        empty().update(features, labels)


def test_update_with_no_images_changes_nothing() -> None:
    moments = gather(*images(10), [])
    same = moments.update(np.empty((0, CHANNELS, 2), np.float32), np.empty(0, int))
    np.testing.assert_array_equal(same.comoment, moments.comoment)


@pytest.mark.parametrize(
    "other",
    [
        replace(empty(), source="1" * 64),
        replace(empty(), taps=(TAPS[1], TAPS[0])),
        replace(empty(), features=("mean_square", "mean")),
        replace(empty(), class_names=("dog", "cat", "owl", "newt")),
    ],
    ids=["source", "taps", "features", "class_names"],
)
def test_merge_refuses_moments_of_another_kind(other: Moments) -> None:
    with pytest.raises(DataError, match="can't be merged"):
        empty().merge(other)


def test_merge_joins_facts_in_any_order() -> None:
    parts = [
        empty(device="cuda:0", data="b"),
        empty(device="cpu", data="b"),
        empty(device="cuda:1", onnxruntime="1.32"),
    ]
    expected = {"data": "b", "device": "cpu; cuda:0; cuda:1", "onnxruntime": "1.32"}
    a, b, c = parts
    assert a.merge(b).merge(c).facts == expected
    assert c.merge(b.merge(a)).facts == expected


def test_the_pooled_entry_takes_all_other_classes() -> None:
    features, labels = images(20)
    whole = gather(features, labels, [13])
    kept = Moments.empty(
        TAPS, ("newt", "(other)", "dog"), "0" * 64,
        features=FEATURES, class_index=np.array([3, -1, 1]),
    )  # fmt: skip
    some = kept.update(features[:31], labels[:31]).update(features[31:], labels[31:])
    pooled = gather(features, np.isin(labels, (1, 3)).astype(int), [])
    assert some.count.tolist() == [whole.count[3], pooled.count[0], whole.count[1]]
    for field in ("mean", "comoment"):
        want = np.stack([getattr(m, field)[k] for m, k in ((whole, 3), (pooled, 0), (whole, 1))])
        np.testing.assert_allclose(getattr(some, field), want, rtol=1e-9)


def test_a_class_that_is_not_kept_is_refused_without_a_pooled_entry() -> None:
    features, labels = images(21)
    kept = Moments.empty(
        TAPS, ("newt", "dog"), "0" * 64, features=FEATURES, class_index=np.array([3, 1])
    )
    with pytest.raises(DataError, match="labels run from 0 to 3"):
        kept.update(features, labels)


def complete(features: np.ndarray, labels: np.ndarray, index: np.ndarray, cuts: list) -> Moments:
    """Moments with everything that there is: histograms, second moments, correct predictions."""
    start = replace(
        empty(),
        histograms=Histograms.empty("mean", EDGES, len(CLASSES)),
        second={tap.tensor: SecondMoments.empty(tap.length) for tap in TAPS},
    )
    gathered = Accumulator(start)
    for rows in np.split(np.arange(len(labels)), cuts):
        gathered.update(features[rows], labels[rows], index[rows])
        gathered.add_correct(int((labels[rows] == 0).sum()))
        parts = {}
        for tap, part in start.slices.items():
            x = features[rows, part, 0]
            mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
            parts[tap] = SecondMoments(len(x), mean, (x - mean).T @ (x - mean))
        gathered.add_second(parts)
    return gathered.moments


@given(
    seeds,
    st.lists(st.integers(0, 60), max_size=6).map(sorted),
    st.permutations(range(4)),
    st.booleans(),
)
def test_any_order_and_split_merges_to_the_same(
    seed: int, cuts: list[int], order: list[int], left: bool
) -> None:
    """What machines gather in shards equals what one gathers in one pass."""
    features, labels = images(seed, mean=100.0)
    index = np.where(np.arange(60) % 8 == 0, -1, np.arange(60))
    whole = complete(features, labels, index, [])
    shards = np.random.default_rng(seed).integers(0, 4, 60)
    parts = []
    for shard in order:
        rows = np.flatnonzero(shards == shard)
        inside = [min(cut, len(rows)) for cut in cuts]
        parts.append(complete(features[rows], labels[rows], index[rows], inside))
    a, b, c, d = parts
    found = a.merge(b).merge(c).merge(d) if left else a.merge(b.merge(c.merge(d)))
    assert_close(found, whole)
    assert found.correct == whole.correct
    assert found.accuracy == (labels == 0).mean()
    assert found.histograms is not None
    assert whole.histograms is not None
    np.testing.assert_array_equal(found.histograms.counts, whole.histograms.counts)
    for tensor, second in whole.second.items():
        size = np.sqrt(np.diag(second.comoment))
        assert found.second[tensor].count == second.count == 60
        error = np.abs(found.second[tensor].comoment - second.comoment)
        assert (error <= 1e-12 * np.outer(size, size)).all()
        assert (
            np.abs(found.second[tensor].mean - second.mean) <= 1e-12 * (np.abs(second.mean) + size)
        ).all()


def test_histograms_count_each_image_in_its_fold_class_and_bin() -> None:
    features, labels = images(22)
    index = np.random.default_rng(1).permutation(100)[:60] - 10
    histograms = complete(features, labels, index, [3, 40]).histograms
    assert histograms is not None
    want = np.zeros((2, len(CLASSES), CHANNELS, 8), int)
    values = features[..., 0].astype(np.float32)
    for i, fold, k, row in zip(index, fold_of(index), labels, values, strict=True):
        for channel in range(CHANNELS if i >= 0 else 0):
            bin_ = np.searchsorted(EDGES[channel], row[channel], side="left")
            want[fold, k, channel, bin_] += 1
    np.testing.assert_array_equal(histograms.counts, want)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 10, 100, 1000])
def test_images_of_any_step_fall_into_both_folds(step: int) -> None:
    """Classes that take turns in the data must not each lie in one fold."""
    for start in (0, 1, 12_345):
        shares = fold_of(np.arange(start, start + 200 * step, step)).mean()
        assert 0.4 < shares < 0.6


def counted(totals: tuple[int, int, int, int], cut: int) -> Histograms:
    """So many images of each fold of two classes, all in one bin, in two batches."""
    entry = np.repeat(np.arange(4), totals)
    found = Histograms.empty("mean", np.zeros((2, 1)), 2)
    for part in np.split(entry, [cut]):
        found = found.add(np.ones((len(part), 2), np.float32), part % 2, part // 2)
    return found


SIZES = st.sampled_from([0, 1, 100, 127, 128, 255, 256, 65_535, 65_536])


@given(st.lists(st.tuples(SIZES, SIZES, SIZES, SIZES), min_size=3, max_size=3), st.integers(0, 300))
@settings(max_examples=25)
def test_counts_are_as_wide_as_they_must_be(totals: list, cut: int) -> None:
    """By the most images of a class in a fold alone, in whatever order they were counted."""
    a, b, c = (counted(one, cut) for one in totals)
    for found, one in ((a, totals[0]), (a.merge(b), np.add(*totals[:2]))):
        most = max(one)
        kind = np.uint8 if most < 256 else np.uint16 if most < 65_536 else np.uint32
        assert found.counts.dtype == kind
        np.testing.assert_array_equal(found.counts[:, :, 1, 1].reshape(-1), one)
        assert found.images == sum(one)
    want = counted(tuple(np.sum(totals, axis=0)), cut).counts
    for found in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        np.testing.assert_array_equal(found.counts, want, strict=True)


def test_wide_counts_of_few_images_get_narrow() -> None:
    """As after a merge of files that were written when there were no narrower ones."""
    few = counted((3, 0, 2, 9), 5)
    wide = replace(few, counts=few.counts.astype(np.uint32))
    np.testing.assert_array_equal(wide.merge(wide).counts, few.merge(few).counts, strict=True)
    batch = np.ones((1, 2), np.float32), np.zeros(1, int), np.zeros(1, int)
    np.testing.assert_array_equal(wide.add(*batch).counts, few.add(*batch).counts, strict=True)


def test_edges_are_kept_as_they_are_compared() -> None:
    """In single precision and edge by edge, whatever comes; bounds get the same numbers, wide."""
    edges = np.sort(np.random.default_rng(3).normal(size=(4, 5)), axis=1)
    kept = Histograms.empty("mean", edges, 1)
    assert kept.edges.dtype == np.float32
    assert kept.edges.T.flags.c_contiguous
    assert quantile_edges(edges).T.flags.c_contiguous
    wide = kept.wide_edges(slice(1, 3))
    assert wide.flags.c_contiguous
    want = edges.astype(np.float32).astype(np.float64)[1:3]
    np.testing.assert_array_equal(wide, want, strict=True)


def test_a_value_on_an_edge_lies_in_the_bin_below() -> None:
    edges = np.array([[0.0, 0.0, 0.5, 1.0]])
    histograms = Histograms.empty("mean", edges, 1)
    values = np.array([[-1.0], [0.0], [0.25], [0.5], [1.0], [2.0]], np.float32)
    histograms = histograms.add(values, np.zeros(6, int), np.zeros(6, int))
    assert histograms.counts[0, 0, 0].tolist() == [2, 0, 2, 1, 1]


def test_merge_refuses_other_edges() -> None:
    counted = [Histograms.empty("mean", EDGES + shift, len(CLASSES)) for shift in (0, 1)]
    a, b = (replace(empty(), histograms=one) for one in counted)
    with pytest.raises(DataError, match="different edges"):
        a.merge(b)
    with pytest.raises(DataError, match="with and without histograms"):
        a.merge(empty())


def test_merge_refuses_second_moments_beside_none() -> None:
    second = {name: SecondMoments.empty(part.stop - part.start) for name, part in
              empty().slices.items()}  # fmt: skip
    with pytest.raises(DataError, match="second moments"):
        empty().merge(replace(empty(), second=second))


def test_accuracy_is_unknown_where_labels_are_the_models_own() -> None:
    known = replace(gather(*images(23), []), correct=30)
    assert known.accuracy == 0.5
    assert known.merge(gather(*images(24), [])).accuracy is None
    assert replace(empty(), correct=0).accuracy is None


def test_moments_are_in_memory_once() -> None:
    """Those of no images take nothing, and an accumulator keeps its own copy alone."""
    taps = (Tap("relu", 1, 20_000, 4),)
    edges = np.zeros((20_000, 7), np.float32)
    tracemalloc.start()
    start = Moments.empty(taps, CLASSES, "0" * 64, features=FEATURES)
    assert tracemalloc.get_traced_memory()[0] < start.nbytes / 10
    start = replace(start, histograms=Histograms.empty("mean", edges, len(CLASSES)))
    gathered, size = Accumulator(start), start.nbytes
    del start
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 1.1 * size
    assert gathered.moments.nbytes == size


def test_an_update_does_not_copy_what_it_does_not_touch() -> None:
    """With 1,000 classes, a batch of 16 images must not cost 1,000 classes' worth of copies."""
    names = [str(k) for k in range(1000)]
    start = Moments.empty((Tap("relu", 1, 200, 4),), names, "0" * 64, features=FEATURES)
    gathered = Accumulator(start)
    features, labels = np.ones((16, 200, 2), np.float32), np.arange(16)
    gathered.update(features, labels)
    tracemalloc.start()
    gathered.update(features, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < start.nbytes / 10
