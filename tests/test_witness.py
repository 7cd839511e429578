"""The witnesses: one suite for all that are registered, over moments as calibration makes them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_laws import total_variation

from discedit_onnx.calibration.histograms import Histograms
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.scoring import witness as registry
from discedit_onnx.scoring.comparison import OneVsRest, Pairs, Sets
from discedit_onnx.scoring.laws import BinnedLaws, MomentLaws
from discedit_onnx.scoring.witness import WITNESSES, sign

CHANNELS, CLASSES = 6, 4
MAY_SHIFT = sorted(set(WITNESSES) - {"t1", "gaussian", "exponential"})
BOUNDS = sorted(name for name, witness in WITNESSES.items() if not witness.assumes)
CONFIDENT = "robust"
"""Says nothing where images are few."""

seeds = st.integers(0, 2**32 - 1)
every_witness = pytest.mark.parametrize("name", sorted(WITNESSES))


def images(seed: int, number: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of maps (N, C, 7) that depend on the class, and labels of all classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % CLASSES)
    shift = rng.normal(size=(CLASSES, CHANNELS, 1))
    width = rng.exponential(size=(CLASSES, CHANNELS, 1)) + 0.1
    pixels = rng.normal(size=(number, CHANNELS, 7)) * width[labels] + shift[labels]
    return pixels, labels


def edges_of(values: np.ndarray, bins: int = 16) -> np.ndarray:
    """Halfway between neighbouring values, so that no rounding moves one across an edge."""
    if not len(values):
        return np.zeros((values.shape[1], bins - 1))
    ordered = np.sort(values, axis=0)
    left = ((len(values) - 1) * np.arange(1, bins)) // bins
    right = (len(values) - 1) - left[::-1]
    return 0.5 * (ordered[left] + ordered[right]).T


def gather(
    pixels: np.ndarray, labels: np.ndarray, batch: int = 1000, classes: int = CLASSES
) -> Moments:
    """Moments of the maps' mean and mean square, and histograms of the mean."""
    channels, names = pixels.shape[1], [str(k) for k in range(classes)]
    mean = pixels.mean(axis=-1)
    features = np.stack([mean, (pixels**2).mean(axis=-1)], axis=-1)
    moments = Moments.empty(
        (Tap("relu", 1, channels, 4),), names, "0" * 64, features=("mean", "mean_square")
    )
    histograms = Histograms.empty("mean", edges_of(mean), classes)
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        moments = moments.update(features[part], labels[part])
        index = np.arange(len(labels))[part]
        histograms = histograms.add(mean[part].astype(np.float32), labels[part], index)
    return replace(moments, histograms=histograms)


def test_the_registry_holds_the_documented_witnesses() -> None:
    assert list(WITNESSES) == [
        *("t1", "fisher", "quadratic", "sharp", "mpm", "mpm-paper", "robust", "hellinger"),
        *("gaussian", "exponential", "threshold", "histogram"),
    ]


@every_witness
def test_a_witness_says_what_it_is(name: str) -> None:
    """Formula, proof, cost, and whether it is a bound for all laws or for some."""
    witness = WITNESSES[name]
    text = " ".join((witness.function.__doc__ or "").split())
    assert witness.name == name
    assert re.search(r"TV >= \S", text)
    assert re.search(r"Proof[,:]", text)
    assert re.search(r"Cost: \S", text)
    assert ("bound for all laws" in text) == (name in BOUNDS)
    assert ("bound only if" in text) == (name not in BOUNDS)
    assert witness.binned == (not witness.features)
    assert witness.kind == ("bound" if name in BOUNDS else "bound for normal features")


@every_witness
def test_shape_type_and_range(name: str) -> None:
    found = WITNESSES[name](gather(*images(0)))
    assert found.shape == (CHANNELS, CLASSES)
    assert found.dtype == np.float64
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert ((found > 0) & (found < 1)).any()
    assert name == CONFIDENT or (found > 0).all()


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        *(("t1", "fisher"), ("fisher", "sharp"), ("fisher", "quadratic"), ("sharp", "mpm")),
        *(("quadratic", "mpm"), ("mpm-paper", "quadratic"), ("robust", "mpm")),
        *(("threshold", "histogram"), ("gaussian", "histogram"), ("exponential", "histogram")),
    ],
)
@given(seed=seeds)
@settings(max_examples=20)
def test_witnesses_are_ordered(smaller: str, larger: str, seed: int) -> None:
    moments = gather(*images(seed))
    assert (WITNESSES[smaller](moments) <= WITNESSES[larger](moments) + 1e-9).all()


@pytest.mark.parametrize("name", [*BOUNDS, CONFIDENT])
@given(seed=seeds)
@settings(max_examples=20)
def test_a_class_against_the_rest_on_the_images_seen(name: str, seed: int) -> None:
    """Moments of images are exact moments of the images' own law, so the bound holds for it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 3, (40, CHANNELS, 1)).astype(float)
    labels = rng.integers(0, CLASSES, 40)
    found = WITNESSES[name](gather(pixels, labels))
    for k in np.unique(labels):
        share = [
            np.stack([(pixels[group, :, 0] == v).mean(axis=0) for v in range(3)], axis=-1)
            for group in (labels == k, labels != k)
        ]
        assert (found[:, k] <= total_variation(*share) + 1e-9).all()


@every_witness
@given(seed=seeds, batch=st.integers(1, 50))
@settings(max_examples=10)
def test_the_batch_size_does_not_matter(name: str, seed: int, batch: int) -> None:
    pixels, labels = images(seed)
    whole, parts = gather(pixels, labels), gather(pixels, labels, batch)
    np.testing.assert_allclose(WITNESSES[name](parts), WITNESSES[name](whole), rtol=1e-6)


@every_witness
def test_the_block_size_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = images(7)
    moments = gather(np.tile(pixels, (1, 8, 1)), labels)
    whole, signs = WITNESSES[name](moments), sign(moments)
    monkeypatch.setattr(registry, "BLOCK", 1)
    np.testing.assert_array_equal(WITNESSES[name](moments), whole)
    np.testing.assert_array_equal(sign(moments), signs)


@every_witness
@given(seed=seeds)
@settings(max_examples=10)
def test_permuting_channels_and_classes_permutes_the_bounds(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, labels = images(seed)
    channels, classes = rng.permutation(CHANNELS), rng.permutation(CLASSES)
    expected = WITNESSES[name](gather(pixels, labels))[channels][:, classes]
    found = WITNESSES[name](gather(pixels[:, channels], np.argsort(classes)[labels]))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


@every_witness
@given(seed=seeds, exponent=st.integers(-10, 10))
@settings(max_examples=10)
def test_the_unit_does_not_matter(name: str, seed: int, exponent: int) -> None:
    pixels, labels = images(seed)
    found = WITNESSES[name](gather(pixels * 10.0**exponent, labels))
    expected = WITNESSES[name](gather(pixels, labels))
    # Edges are rounded to single precision in each unit anew.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@every_witness
@given(seed=seeds)
@settings(max_examples=10)
def test_turning_the_sign_changes_the_sign_only(name: str, seed: int) -> None:
    pixels, labels = images(seed)
    there, back = gather(pixels, labels), gather(-pixels, labels)
    np.testing.assert_allclose(WITNESSES[name](back), WITNESSES[name](there), rtol=1e-6)
    np.testing.assert_array_equal(sign(back), -sign(there))


@pytest.mark.parametrize("name", MAY_SHIFT)
@given(seed=seeds, shift=st.floats(-30, 30))
@settings(max_examples=10)
def test_the_zero_does_not_matter_to_most(name: str, seed: int, shift: float) -> None:
    pixels, labels = images(seed)
    moved, there = gather(pixels + shift, labels), gather(pixels, labels)
    np.testing.assert_allclose(WITNESSES[name](moved), WITNESSES[name](there), rtol=1e-4, atol=1e-6)


def test_t1_depends_on_the_zero() -> None:
    pixels, labels = images(1)
    assert (WITNESSES["t1"](gather(pixels + 30, labels)) < 0.05).all()


@every_witness
def test_dead_constant_and_single_valued_channels(name: str) -> None:
    labels = np.arange(400) % CLASSES
    pixels = np.zeros((400, 4, 1))
    pixels[:, 1] = 0.1
    pixels[:, 2, 0] = labels == 3
    pixels[:, 3, 0] = np.arange(400) // CLASSES % 2
    found = WITNESSES[name](gather(pixels, labels))
    assert np.isfinite(found).all()
    assert (found[[0, 1, 3]] < 1e-9).all()
    assert found[2, 3] == pytest.approx(0.5 if name == "t1" else 1.0, abs=1e-5)


@every_witness
def test_a_class_with_no_images_scores_nothing(name: str) -> None:
    pixels, labels = images(2, number=400)
    some = labels != 1
    moments = gather(pixels[some], labels[some])
    for comparison in (None, Pairs((0, 1, 2, 3))):
        found = WITNESSES[name](moments, comparison)
        columns = [1] if comparison is None else [0, 3, 4]
        assert not found[:, columns].any()
        assert np.delete(found, columns, axis=1).any(axis=0).all()
    assert not sign(moments)[:, 1].any()
    assert not WITNESSES[name](moments, Sets((1,), (0, 2))).any()


@every_witness
def test_one_class_or_no_images_at_all(name: str) -> None:
    pixels, _ = images(3)
    for moments in (gather(pixels, np.full(120, 2)), gather(pixels[:0], np.empty(0, int))):
        assert not WITNESSES[name](moments).any()
        assert not sign(moments).any()


@every_witness
def test_one_image_of_each_class(name: str) -> None:
    pixels, _ = images(4, number=CLASSES)
    found = WITNESSES[name](gather(pixels, np.arange(CLASSES)))
    assert ((found >= 0) & (found <= 1)).all()


@every_witness
@pytest.mark.parametrize("size", [1e-18, 1e18], ids=["small", "large"])
def test_ends_of_the_float32_range(name: str, size: float) -> None:
    pixels, labels = images(5)
    found = WITNESSES[name](gather(pixels * size, labels))
    expected = WITNESSES[name](gather(pixels, labels))
    # Edges are rounded to single precision in each unit anew.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_sign_says_which_side_fires_more() -> None:
    labels = np.arange(40) % CLASSES
    pixels = np.zeros((40, 3, 1))
    pixels[:, 0, 0] = labels == 2
    pixels[:, 1, 0] = labels != 2
    found = sign(gather(pixels, labels))
    assert found.dtype == np.int8
    assert found.tolist() == [[-1, -1, 1, -1], [1, 1, -1, 1], [0, 0, 0, 0]]
    assert sign(gather(pixels, labels), Sets((0, 2), (1, 3)))[:, 0].tolist() == [1, -1, 0]


# Features and histograms that are not there


def test_what_can_t_be_asked_is_refused() -> None:
    moments = gather(*images(6))
    with pytest.raises(DataError, match="'mean'"):
        WITNESSES["fisher"](replace(moments, features=("maximum", "mean_square")))
    with pytest.raises(DataError, match="'max' but mean, mean_square"):
        WITNESSES["fisher"](moments, features=("max",))
    with pytest.raises(DataError, match="hold none"):
        WITNESSES["threshold"](replace(moments, histograms=None))
    with pytest.raises(UsageError, match="histograms are of mean"):
        WITNESSES["histogram"](moments, features=("max",))
    with pytest.raises(UsageError, match="nothing else"):
        WITNESSES["quadratic"](moments, features=("mean",))
    with pytest.raises(UsageError, match="up to 8 features, each once"):
        WITNESSES["mpm"](moments, features=("mean", "mean"))


def test_other_features_than_the_default_ones() -> None:
    moments = gather(*images(8))
    both = ("mean", "mean_square")
    of = {name: WITNESSES[name] for name in ("fisher", "quadratic", "sharp", "mpm")}
    np.testing.assert_array_equal(of["fisher"](moments, features=both), of["quadratic"](moments))
    np.testing.assert_array_equal(
        of["mpm"](moments, features=("mean",)), of["sharp"](moments, features=("mean",))
    )
    alone = [of["sharp"](moments, features=(name,)) for name in both]
    np.testing.assert_allclose(of["sharp"](moments, features=both), np.maximum(*alone))
    np.testing.assert_array_equal(
        WITNESSES["threshold"](moments, features=("mean",)), WITNESSES["threshold"](moments)
    )


# What is held against what


def group(pixels: np.ndarray, labels: np.ndarray, *sides: tuple[int, ...]) -> Moments:
    """The images of some sets of classes, each set as one class."""
    relabelled = np.full(len(labels), -1)
    for number, members in enumerate(sides):
        relabelled[np.isin(labels, members)] = number
    some = relabelled >= 0
    edges = edges_of(pixels.mean(axis=-1))
    found = gather(pixels[some], relabelled[some], classes=len(sides))
    histograms = Histograms.empty("mean", edges, len(sides))
    mean = pixels[some].mean(axis=-1).astype(np.float32)
    histograms = histograms.add(mean, relabelled[some], np.arange(len(mean)))
    return replace(found, histograms=histograms)


@every_witness
@given(seed=seeds)
@settings(max_examples=10)
def test_pairs_and_sets_are_what_moments_of_two_classes_would_give(name: str, seed: int) -> None:
    pixels, labels = images(seed)
    moments = gather(pixels, labels)
    witness = WITNESSES[name]
    close = {"rtol": 1e-6, "atol": 1e-9}
    pairs = Pairs((0, 1, 3))
    assert pairs.members == [(0, 1), (0, 3), (1, 3)]
    for column, (i, j) in enumerate(pairs.members):
        expected = witness(group(pixels, labels, (i,), (j,)))[:, 0]
        np.testing.assert_allclose(witness(moments, pairs)[:, column], expected, **close)
    expected = witness(group(pixels, labels, (0, 2), (1, 3)))[:, :1]
    np.testing.assert_allclose(witness(moments, Sets((0, 2), (1, 3))), expected, **close)
    rest = witness(moments)
    np.testing.assert_allclose(witness(moments, Sets((2,), (0, 1, 3)))[:, 0], rest[:, 2], **close)
    np.testing.assert_array_equal(witness(moments, OneVsRest((2, 0))), rest[:, [2, 0]])


@every_witness
def test_pooled_classes_are_part_of_every_rest_but_no_class(name: str) -> None:
    """Two classes by themselves, two pooled: as with all four by themselves."""
    pixels, labels = images(9, number=200)
    whole = gather(pixels, labels)
    pooled = group(pixels, labels, (0,), (2,), (1, 3))
    pooled = replace(pooled, class_index=np.array([0, 2, -1]))
    found = WITNESSES[name](pooled)
    np.testing.assert_allclose(found, WITNESSES[name](whole)[:, [0, 2]], rtol=1e-6, atol=1e-9)
    assert sign(pooled).shape == (CHANNELS, 2)


def test_sets_that_make_no_sense() -> None:
    for first, second in (((), (1,)), ((0,), ()), ((0, 1), (1, 2))):
        with pytest.raises(UsageError):
            Sets(first, second)


@given(seed=seeds)
@settings(max_examples=30)
def test_the_rest_and_the_pool_are_those_of_the_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, labels = images(seed, number=60)
    pixels += 10.0 ** rng.uniform(0, 4)
    labels[labels == rng.integers(CLASSES)] = 0
    moments = gather(pixels, labels)
    laws = MomentLaws.of(moments, ("mean", "mean_square"), slice(0, CHANNELS))
    binned = BinnedLaws.of(moments, slice(0, CHANNELS))
    features = np.stack([pixels.mean(axis=-1), (pixels**2).mean(axis=-1)], axis=-1)
    for k in range(CLASSES):
        others = [j for j in range(CLASSES) if j != k]
        some = features[labels != k]
        for found in (laws.rest().take([k]), laws.pool(others)):
            assert found.count[0] == len(some)
            np.testing.assert_allclose(found.mean[0], some.mean(axis=0), rtol=1e-12)
            spread = some - some.mean(axis=0)
            expected = (spread[..., :, None] * spread[..., None, :]).sum(axis=0)
            np.testing.assert_allclose(found.comoment[0], expected, rtol=1e-6)
        np.testing.assert_array_equal(binned.rest().counts[k], binned.pool(others).counts[0])


def test_a_rest_that_is_tighter_than_the_class_keeps_its_digits() -> None:
    """Nothing is subtracted: the class left out has 10^16 times the variance of the others."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    values = np.where(labels == 0, 1e8 * rng.normal(size=300), rng.normal(size=300))
    values -= np.where(labels == 0, values[labels == 0].mean(), 0)
    moments = gather(values[:, None, None], labels, classes=3)
    rest = MomentLaws.of(moments, ("mean",), slice(0, 1)).rest()
    assert rest.covariance[0, 0, 0, 0] == pytest.approx(values[labels != 0].var(), rel=1e-6)
