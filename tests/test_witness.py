"""The bounds against true total variation, their order, symmetries and degenerate inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError
from discedit_onnx.scoring.witness import (
    WITNESSES,
    fisher_bound,
    mpm_bound,
    sharp_bound,
    sign,
    t1_bound,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = (t1_bound, fisher_bound, sharp_bound, mpm_bound)
CHANNELS, CLASSES = 6, 4
MAY_SHIFT = sorted(set(WITNESSES) - {"t1"})

seeds = st.integers(0, 2**32 - 1)
every_witness = pytest.mark.parametrize("name", sorted(WITNESSES))


# Laws with finitely many atoms: (values, p, q), each (B, A)


def gaps(rng: np.random.Generator, batch: int) -> np.ndarray:
    """Reals over six orders of magnitude, of both signs."""
    return rng.normal(size=(batch, 5)) * 10.0 ** rng.uniform(-3, 3, (batch, 5))


def integers(rng: np.random.Generator, batch: int) -> np.ndarray:
    """Different small integers: moments with many ties."""
    return rng.permuted(np.tile(np.arange(-4.0, 5.0), (batch, 1)), axis=1)[:, :4]


def binary(rng: np.random.Generator, batch: int) -> np.ndarray:
    """0 and 1, so that x and x^2 are one."""
    return np.tile([0.0, 1.0], (batch, 1))


def distant(rng: np.random.Generator, batch: int) -> np.ndarray:
    """Values far from zero for their spread, so that x and x^2 are nearly collinear."""
    return rng.normal(size=(batch, 6)) + 10.0 ** rng.uniform(1, 3, (batch, 1))


def rectified(rng: np.random.Generator, batch: int) -> np.ndarray:
    """As behind a ReLU: zero and some positive values."""
    return np.concatenate([np.zeros((batch, 1)), rng.exponential(size=(batch, 4))], axis=1)


FAMILIES = (gaps, integers, binary, distant, rectified)


def laws(
    family: Callable[[np.random.Generator, int], np.ndarray], seed: int, batch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random pairs of laws on random atoms; many probabilities are small, some are 0."""
    rng = np.random.default_rng(seed)
    values = family(rng, batch)

    def law() -> np.ndarray:
        weights = rng.gamma(rng.choice([0.2, 1.0, 5.0], (batch, 1)), size=values.shape)
        weights *= rng.random(values.shape) > 0.2
        weights[:, 0] += 1e-3 * (weights.sum(axis=1) == 0)
        normal: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
        return normal

    return values, law(), law()


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    distance: np.ndarray = 0.5 * np.abs(p - q).sum(axis=-1)
    return distance


def mean_and_covariance(z: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments of features z (B, A, F) under p (B, A)."""
    mean = (p[..., None] * z).sum(axis=1)
    centred = z - mean[:, None]
    return mean, np.einsum("ba,bai,baj->bij", p, centred, centred)


def population(
    values: np.ndarray, p: np.ndarray, q: np.ndarray, powers: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arguments of a bound for the features x**power."""
    z = np.stack([values**power for power in powers], axis=-1)
    return (*mean_and_covariance(z, p), *mean_and_covariance(z, q))


@pytest.mark.parametrize("powers", [(1,), (2,), (1, 2), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_no_bound_exceeds_total_variation(
    family: Callable[[np.random.Generator, int], np.ndarray], powers: tuple[int, ...], seed: int
) -> None:
    values, p, q = laws(family, seed, 2000)
    truth = total_variation(p, q)
    arguments = population(values, p, q, powers)
    for bound in BOUNDS:
        found = bound(*arguments)
        assert (found >= 0).all()
        assert (found <= truth + 1e-9).all(), bound.__name__


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_bounds_are_ordered(
    family: Callable[[np.random.Generator, int], np.ndarray], seed: int
) -> None:
    values, p, q = laws(family, seed, 2000)
    x, both = population(values, p, q, (1,)), population(values, p, q, (1, 2))
    tiny = 1e-11
    assert (t1_bound(*x) <= fisher_bound(*x) + tiny).all()
    assert (fisher_bound(*x) <= sharp_bound(*x) + tiny).all()
    assert (fisher_bound(*x) <= fisher_bound(*both) + tiny).all()
    assert (fisher_bound(*both) <= mpm_bound(*both) + tiny).all()
    assert (sharp_bound(*both) <= mpm_bound(*both) + tiny).all()
    np.testing.assert_allclose(sharp_bound(*x), mpm_bound(*x), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_bounds_are_symmetric_in_the_laws(bound: Callable[..., np.ndarray], seed: int) -> None:
    values, p, q = laws(rectified, seed, 100)
    there, back = population(values, p, q, (1, 2)), population(values, q, p, (1, 2))
    np.testing.assert_allclose(bound(*there), bound(*back), rtol=1e-6, atol=1e-9)


def test_known_values() -> None:
    """N(0, 1) against N(2, 1), k = 1: the figures of the published forms."""
    moments = tuple(np.array(part) for part in ([0.0], [[1.0]], [2.0], [[1.0]]))
    assert t1_bound(*moments) == pytest.approx(1 / 3)
    assert fisher_bound(*moments) == pytest.approx(0.5)
    assert sharp_bound(*moments) == pytest.approx(0.5)
    apart = tuple(np.array(part) for part in ([0.0], [[0.0]], [2.0], [[1.0]]))
    assert fisher_bound(*apart) == pytest.approx(2 / 3)
    assert sharp_bound(*apart) == pytest.approx(0.8)


@given(seed=seeds)
@settings(deadline=None)
def test_sharp_is_attained(seed: int) -> None:
    """The extremal pair of T3: one common atom, and one more atom each, on either side of it."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.01, 0.99, (100, 1))
    values = rng.normal(size=(100, 1)) + rng.exponential(size=(100, 3)) * [0.0, 1.0, -1.0]
    p = np.concatenate([1 - share, share, 0 * share], axis=1)
    q = np.concatenate([1 - share, 0 * share, share], axis=1)
    found = sharp_bound(*population(values, p, q, (1,)))
    np.testing.assert_allclose(found, share[:, 0], rtol=1e-9)


def brute_force(
    mean_p: np.ndarray, cov_p: np.ndarray, mean_q: np.ndarray, cov_q: np.ndarray
) -> np.ndarray:
    """Vector T3 by a search over the angle of w, on a grid that is refined around its best."""
    scale = np.sqrt(np.diagonal(cov_p + cov_q, axis1=-2, axis2=-1))
    centre, width = np.zeros(len(scale)), np.pi / 2
    for _ in range(6):
        angle = centre[:, None] + np.linspace(-width, width, 801)
        w = np.stack([np.cos(angle), np.sin(angle)], axis=-1) / scale[:, None]
        b, e = (np.sqrt(np.einsum("bai,bij,baj->ba", w, cov, w)) for cov in (cov_p, cov_q))
        k = np.abs(np.einsum("bai,bi->ba", w, mean_p - mean_q)) / (b + e)
        centre = np.take_along_axis(angle, k.argmax(axis=1)[:, None], axis=1)[:, 0]
        width /= 50
    ratio = k.max(axis=1) ** 2
    best: np.ndarray = ratio / (1 + ratio)
    return best


@pytest.mark.parametrize("flat", [1.0, 0.1, 1e-3], ids=lambda flat: f"flatness {flat}")
@given(seed=seeds)
@settings(max_examples=4, deadline=None)
def test_mpm_agrees_with_a_search_over_all_directions(flat: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root_p, root_q = rng.normal(size=(2, 300, 2, 2)) * [[[[1.0]]], [[[flat]]]]
    units = 10.0 ** rng.uniform(-4, 4, (300, 1, 2))
    cov_p, cov_q = (np.swapaxes(root * units, -1, -2) @ (root * units) for root in (root_p, root_q))
    mean_p, mean_q = rng.normal(size=(2, 300, 2)) * units[:, 0]
    found = mpm_bound(mean_p, cov_p, mean_q, cov_q)
    np.testing.assert_allclose(found, brute_force(mean_p, cov_p, mean_q, cov_q), atol=1e-6)


def test_mpm_where_each_law_varies_in_one_direction_only() -> None:
    """g(r) is linear then: the plain fixed point would crawl towards an end of the bracket."""
    cov_p, cov_q = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    for first, second in ((1.0, 0.999), (0.5, 3.0)):
        found = mpm_bound(np.array([first, second]), cov_p, np.zeros(2), cov_q)
        best = max(first, second) ** 2
        assert found == pytest.approx(best / (1 + best), rel=1e-6)


def test_mpm_sees_what_one_feature_hides() -> None:
    """Equal means, different spread: x alone says nothing, x^2 does."""
    values = np.array([[-3.0, -1.0, 1.0, 3.0]])
    p, q = np.array([[0.0, 0.5, 0.5, 0.0]]), np.array([[0.5, 0.0, 0.0, 0.5]])
    assert sharp_bound(*population(values, p, q, (1,))) == 0.0
    assert mpm_bound(*population(values, p, q, (1, 2))) == pytest.approx(1.0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_laws_without_spread(bound: Callable[..., np.ndarray]) -> None:
    zero = np.zeros((2, 2))
    same, other, dead = np.array([0.1, 0.01]), np.array([0.3, 0.09]), np.zeros(2)
    assert bound(same, zero, same, zero) == 0.0
    assert bound(dead, zero, dead, zero) == 0.0
    certain = 0.5 if bound is t1_bound else 1.0
    assert bound(same, zero, dead, zero) == pytest.approx(certain)
    if bound is not t1_bound:
        assert bound(same, zero, other, zero) == pytest.approx(1.0)


@pytest.mark.parametrize("bound", BOUNDS)
def test_rounding_of_a_constant_is_not_a_difference(bound: Callable[..., np.ndarray]) -> None:
    mean = np.array([0.1, 0.01])
    noise = np.eye(2) * (1e-16 * mean) ** 2
    assert bound(mean, noise, mean * (1 + 1e-15), noise) < 1e-9


@pytest.mark.parametrize("bound", BOUNDS)
def test_covariances_that_rounding_made_indefinite(bound: Callable[..., np.ndarray]) -> None:
    cov = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    found = bound(np.array([1.0, 1.0]), cov, np.array([0.0, 0.0]), cov)
    assert found == pytest.approx(bound(np.ones(1), np.eye(1), np.zeros(1), np.eye(1)), abs=1e-9)


# Witnesses: bounds applied to calibration moments


def images(seed: int, number: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of maps (N, C, 7) that depend on the class, and labels of all classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % CLASSES)
    shift = rng.normal(size=(CLASSES, CHANNELS, 1))
    width = rng.exponential(size=(CLASSES, CHANNELS, 1)) + 0.1
    pixels = rng.normal(size=(number, CHANNELS, 7)) * width[labels] + shift[labels]
    return pixels, labels


def gather(pixels: np.ndarray, labels: np.ndarray, batch: int = 1000) -> Moments:
    """Moments of the maps' mean and mean square."""
    channels, classes = pixels.shape[1], [str(k) for k in range(CLASSES)]
    features = np.stack([pixels.mean(axis=-1), (pixels**2).mean(axis=-1)], axis=-1)
    moments = Moments.empty((Tap("relu", 1, channels, 4),), classes, "0" * 64)
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        moments = moments.update(features[part], labels[part])
    return moments


def test_the_registry_holds_the_documented_witnesses() -> None:
    assert list(WITNESSES) == ["t1", "fisher", "quadratic", "sharp", "mpm"]
    assert all(function.__doc__ for function in WITNESSES.values())


@every_witness
def test_shape_type_and_range(name: str) -> None:
    found = WITNESSES[name](gather(*images(0)))
    assert found.shape == (CHANNELS, CLASSES)
    assert found.dtype == np.float64
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("smaller", ["t1", "fisher", "sharp", "quadratic"])
@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_witnesses_are_ordered(smaller: str, seed: int) -> None:
    moments = gather(*images(seed))
    above = {"t1": ["fisher"], "fisher": ["sharp", "quadratic"]}.get(smaller, ["mpm"])
    for larger in above:
        assert (WITNESSES[smaller](moments) <= WITNESSES[larger](moments) + 1e-9).all()


@every_witness
@given(seed=seeds)
@settings(max_examples=20, deadline=None)
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
@settings(max_examples=10, deadline=None)
def test_the_batch_size_does_not_matter(name: str, seed: int, batch: int) -> None:
    pixels, labels = images(seed)
    whole, parts = gather(pixels, labels), gather(pixels, labels, batch)
    np.testing.assert_allclose(WITNESSES[name](parts), WITNESSES[name](whole), rtol=1e-6)


@every_witness
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_permuting_channels_and_classes_permutes_the_bounds(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels, labels = images(seed)
    channels, classes = rng.permutation(CHANNELS), rng.permutation(CLASSES)
    expected = WITNESSES[name](gather(pixels, labels))[channels][:, classes]
    found = WITNESSES[name](gather(pixels[:, channels], np.argsort(classes)[labels]))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@every_witness
@given(seed=seeds, exponent=st.integers(-10, 10))
@settings(max_examples=10, deadline=None)
def test_the_unit_does_not_matter(name: str, seed: int, exponent: int) -> None:
    pixels, labels = images(seed)
    found = WITNESSES[name](gather(pixels * 10.0**exponent, labels))
    np.testing.assert_allclose(found, WITNESSES[name](gather(pixels, labels)), rtol=1e-6)


@every_witness
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_turning_the_sign_changes_the_sign_only(name: str, seed: int) -> None:
    pixels, labels = images(seed)
    there, back = gather(pixels, labels), gather(-pixels, labels)
    np.testing.assert_allclose(WITNESSES[name](back), WITNESSES[name](there), rtol=1e-6)
    np.testing.assert_array_equal(sign(back), -sign(there))


@pytest.mark.parametrize("name", MAY_SHIFT)
@given(seed=seeds, shift=st.floats(-30, 30))
@settings(max_examples=10, deadline=None)
def test_the_zero_does_not_matter_but_to_t1(name: str, seed: int, shift: float) -> None:
    pixels, labels = images(seed)
    found = WITNESSES[name](gather(pixels + shift, labels))
    np.testing.assert_allclose(found, WITNESSES[name](gather(pixels, labels)), rtol=1e-4, atol=1e-6)


def test_t1_depends_on_the_zero() -> None:
    pixels, labels = images(1)
    assert (WITNESSES["t1"](gather(pixels + 30, labels)) < 0.05).all()


@every_witness
def test_dead_constant_and_single_valued_channels(name: str) -> None:
    labels = np.arange(40) % CLASSES
    pixels = np.zeros((40, 4, 1))
    pixels[:, 1] = 0.1
    pixels[:, 2, 0] = labels == 3
    pixels[:, 3, 0] = np.arange(40) // CLASSES % 2
    found = WITNESSES[name](gather(pixels, labels))
    assert np.isfinite(found).all()
    assert not found[[0, 1, 3]].any()
    assert found[2, 3] == pytest.approx(0.5 if name == "t1" else 1.0)


@every_witness
def test_a_class_with_no_images_scores_nothing(name: str) -> None:
    pixels, labels = images(2)
    some = labels != 1
    moments = gather(pixels[some], labels[some])
    found = WITNESSES[name](moments)
    assert not found[:, 1].any()
    assert (found[:, [0, 2, 3]] > 0).all()
    assert not sign(moments)[:, 1].any()


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
    assert ((found > 0) & (found < 1)).all()


def test_sign_says_which_side_fires_more() -> None:
    labels = np.arange(40) % CLASSES
    pixels = np.zeros((40, 3, 1))
    pixels[:, 0, 0] = labels == 2
    pixels[:, 1, 0] = labels != 2
    found = sign(gather(pixels, labels))
    assert found.dtype == np.int8
    assert found.tolist() == [[-1, -1, 1, -1], [1, 1, -1, 1], [0, 0, 0, 0]]


def test_moments_without_the_feature_are_refused() -> None:
    moments = replace(gather(*images(6)), features=("maximum", "mean_square"))
    with pytest.raises(DataError, match="'mean'"):
        WITNESSES["fisher"](moments)
