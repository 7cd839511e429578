"""The theorems: no bound exceeds the true total variation, and they come in their order."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import clarabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_laws import FAMILIES, discrete, mixture, population, rectified, total_variation
from scipy import sparse
from scipy.stats import norm

from discedit_onnx.scoring.binned import (
    exponential_exponent,
    gaussian_exponent,
    histogram_bound,
    kernel_bound,
    norm_scale,
    threshold_bound,
)
from discedit_onnx.scoring.bounds import fisher_bound, hellinger_bound, sharp_bound, t1_bound
from discedit_onnx.scoring.mpm import (
    Radii,
    mpm_bound,
    mpm_paper_bound,
    normal_radii,
    robust_bound,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from random_laws import Family, Pair


def robust_here(*arguments: np.ndarray) -> np.ndarray:
    """With radii that say nothing of how they were found."""
    radii = Radii(np.array(0.1), np.array(1.2))
    return robust_bound(*arguments, radii, radii)


BOUNDS = (t1_bound, fisher_bound, sharp_bound, mpm_bound, mpm_paper_bound, robust_here)

seeds = st.integers(0, 2**32 - 1)
every_family = pytest.mark.parametrize("family", FAMILIES)
both_ways = pytest.mark.parametrize("pair", [discrete, mixture])


# 10 families and ways x 10 examples x 1,000 pairs, for each choice of features


@pytest.mark.parametrize("powers", [(1,), (2,), (1, 2), (1, 2, 3)], ids=str)
@both_ways
@every_family
@given(seed=seeds)
@settings(max_examples=10)
def test_no_bound_on_moments_exceeds_total_variation(
    family: Family, pair: Callable[..., Pair], powers: tuple[int, ...], seed: int
) -> None:
    laws = pair(family, seed, 1000)
    truth = total_variation(*laws[1:])
    arguments = population(laws, powers)
    for bound in BOUNDS:
        found = bound(*arguments)
        assert (found >= 0).all()
        assert (found <= truth + 1e-9).all(), bound.__name__


@both_ways
@every_family
@given(seed=seeds)
@settings(max_examples=10)
def test_no_bound_on_bins_exceeds_total_variation(
    family: Family, pair: Callable[..., Pair], seed: int
) -> None:
    """Also where several values share a bin."""
    values, p, q = pair(family, seed, 1000)
    truth = total_variation(p, q)
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(values.reshape(-1), (1000, 2)), axis=1)
    place = (values[:, :, None] > edges[:, None]).sum(axis=-1)
    binned = [
        np.stack([(law * (place == b)).sum(axis=1) for b in range(3)], axis=-1) for law in (p, q)
    ]
    exponents = (gaussian_exponent(edges), exponential_exponent(edges), rng.normal(size=(1000, 3)))
    found = [threshold_bound(*binned), histogram_bound(*binned)]
    found += [kernel_bound(exponent, *binned) for exponent in exponents]
    for values_found in found:
        assert (values_found >= 0).all()
        assert (values_found <= truth + 1e-9).all()
        assert (values_found <= found[1] + 1e-9).all(), "the best set of bins is the best of all"


@both_ways
@every_family
@given(seed=seeds)
@settings(max_examples=10)
def test_uncentred_fisher_sharp_threshold_histogram_truth(
    family: Family, pair: Callable[..., Pair], seed: int
) -> None:
    """With an edge between any two values, as the theorem wants it."""
    laws = pair(family, seed, 1000)
    x, both = population(laws, (1,)), population(laws, (1, 2))
    tiny = 1e-11
    chain = [
        t1_bound(*x),
        fisher_bound(*x),
        sharp_bound(*x),
        threshold_bound(*laws[1:]),
        histogram_bound(*laws[1:]),
        total_variation(*laws[1:]),
    ]
    for lower, upper in pairwise(chain):
        assert (lower <= upper + tiny).all()
    assert (fisher_bound(*x) <= fisher_bound(*both) + tiny).all()
    assert (fisher_bound(*both) <= mpm_bound(*both) + tiny).all()
    assert (sharp_bound(*both) <= mpm_bound(*both) + tiny).all()
    assert (mpm_paper_bound(*x) <= fisher_bound(*x) + tiny).all()
    np.testing.assert_allclose(sharp_bound(*x), mpm_bound(*x), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("bound", [*BOUNDS, hellinger_bound])
@given(seed=seeds)
@settings(max_examples=10)
def test_bounds_are_symmetric_in_the_laws(bound: Callable[..., np.ndarray], seed: int) -> None:
    values, p, q = discrete(rectified, seed, 100)
    there, back = population((values, p, q), (1, 2)), population((values, q, p), (1, 2))
    # Where one law hardly varies in some direction, 1 - share keeps few digits of that variance.
    np.testing.assert_allclose(bound(*there), bound(*back), rtol=1e-5, atol=1e-8)


def test_known_values() -> None:
    """N(0, 1) against N(2, 1), k = 1: the figures of the published forms."""
    moments = tuple(np.array(part) for part in ([0.0], [[1.0]], [2.0], [[1.0]]))
    assert t1_bound(*moments) == pytest.approx(1 / 3)
    assert fisher_bound(*moments) == pytest.approx(0.5)
    assert sharp_bound(*moments) == pytest.approx(0.5)
    assert mpm_paper_bound(*moments) == pytest.approx(0.17157, abs=1e-5)
    assert hellinger_bound(*moments) == pytest.approx(1 - np.exp(-0.5))
    apart = tuple(np.array(part) for part in ([0.0], [[0.0]], [2.0], [[1.0]]))
    assert fisher_bound(*apart) == pytest.approx(2 / 3)
    assert sharp_bound(*apart) == pytest.approx(0.8)


@given(seed=seeds)
def test_sharp_is_attained(seed: int) -> None:
    """The extremal pair of T3: one common atom, and one more atom each, on either side of it."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.01, 0.99, (100, 1))
    values = rng.normal(size=(100, 1)) + rng.exponential(size=(100, 3)) * [0.0, 1.0, -1.0]
    p = np.concatenate([1 - share, share, 0 * share], axis=1)
    q = np.concatenate([1 - share, 0 * share, share], axis=1)
    found = sharp_bound(*population((values, p, q), (1,)))
    np.testing.assert_allclose(found, share[:, 0], rtol=1e-9)


# Normal laws


def normal_overlap(d: np.ndarray, s: np.ndarray) -> np.ndarray:
    """TV of N(0, 1) and N(d, s^2), by summation on a fine grid."""
    x = np.linspace(-40, 40, 160_001)
    p = norm.pdf(x)
    q = norm.pdf(x, d[:, None], s[:, None])
    truth: np.ndarray = 0.5 * np.abs(p - q).sum(axis=1) * (x[1] - x[0])
    return truth


def test_hellinger_is_a_bound_for_normal_laws() -> None:
    rng = np.random.default_rng(0)
    d, s = rng.uniform(-4, 4, 40), 10.0 ** rng.uniform(-1, 0.7, 40)
    arguments = (np.zeros((40, 1)), np.ones((40, 1, 1)), d[:, None], (s**2)[:, None, None])
    truth = normal_overlap(d, s)
    assert (hellinger_bound(*arguments) <= truth + 1e-3).all()
    assert (sharp_bound(*arguments) <= truth + 1e-3).all()


def test_hellinger_is_no_bound_for_others() -> None:
    """Half zeros and half ones against the constant one: TV is 1/2."""
    arguments = population((np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]])),
                           (1,))  # fmt: skip
    assert hellinger_bound(*arguments) > 0.9


def test_hellinger_of_vectors_agrees_with_its_formula() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 5):
        roots = rng.normal(size=(2, 50, size, size))
        cov_p, cov_q = roots @ np.swapaxes(roots, -1, -2)
        mean_p, mean_q = rng.normal(size=(2, 50, size))
        middle = 0.5 * (cov_p + cov_q)
        d = (mean_p - mean_q)[..., None]
        exponent = (np.swapaxes(d, -1, -2) @ np.linalg.solve(middle, d))[..., 0, 0] / 8
        affinity = np.exp(-exponent) * (np.linalg.det(cov_p) * np.linalg.det(cov_q)) ** 0.25
        affinity /= np.sqrt(np.linalg.det(middle))
        found = hellinger_bound(mean_p, cov_p, mean_q, cov_q)
        np.testing.assert_allclose(found, 1 - affinity, atol=1e-8)


# The minimax probability machine


def solve(mean: np.ndarray, root_p: np.ndarray, root_q: np.ndarray) -> float:
    """k of T3 for vectors by a convex solver: minimise |A w| + |B w| where w'D = 1."""
    size = len(mean)
    cost = np.concatenate([np.zeros(size), [1.0, 1.0]])
    rows = np.zeros((1 + 2 * (size + 1), size + 2))
    rows[0, :size] = mean
    for number, root in enumerate((root_p, root_q)):
        start = 1 + number * (size + 1)
        rows[start, size + number] = -1.0
        rows[start + 1 : start + 1 + size, :size] = -root
    cones = [clarabel.ZeroConeT(1), *[clarabel.SecondOrderConeT(size + 1)] * 2]
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-11
    limits = np.concatenate([[1.0], np.zeros(2 * (size + 1))])
    empty = sparse.csc_matrix((size + 2, size + 2))
    solver = clarabel.DefaultSolver(empty, cost, sparse.csc_matrix(rows), limits, cones, options)
    return 1.0 / float(solver.solve().obj_val)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_mpm_agrees_with_a_convex_solver(size: int) -> None:
    """200 problems in all, a third of them with one law nearly flat in some direction."""
    rng = np.random.default_rng(size)
    roots = rng.normal(size=(2, 50, size, size))
    roots[1, ::3, 0] *= 1e-3
    mean = rng.normal(size=(50, size))
    expected = np.array([solve(*problem) for problem in zip(mean, *roots, strict=True)]) ** 2
    cov_p, cov_q = np.swapaxes(roots, -1, -2) @ roots
    found = mpm_bound(mean, cov_p, np.zeros_like(mean), cov_q)
    np.testing.assert_allclose(found, expected / (1 + expected), atol=1e-6)


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
@settings(max_examples=4)
def test_mpm_agrees_with_a_search_over_all_directions(flat: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root_p, root_q = rng.normal(size=(2, 300, 2, 2)) * [[[[1.0]]], [[[flat]]]]
    units = 10.0 ** rng.uniform(-4, 4, (300, 1, 2))
    cov_p, cov_q = (np.swapaxes(root * units, -1, -2) @ (root * units) for root in (root_p, root_q))
    mean_p, mean_q = rng.normal(size=(2, 300, 2)) * units[:, 0]
    found = mpm_bound(mean_p, cov_p, mean_q, cov_q)
    np.testing.assert_allclose(found, brute_force(mean_p, cov_p, mean_q, cov_q), atol=1e-6)


def test_mpm_where_each_law_varies_in_one_direction_only() -> None:
    """A plain fixed point would crawl towards an end of the bracket."""
    cov_p, cov_q = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    for first, second in ((1.0, 0.999), (0.5, 3.0)):
        found = mpm_bound(np.array([first, second]), cov_p, np.zeros(2), cov_q)
        best = max(first, second) ** 2
        assert found == pytest.approx(best / (1 + best), rel=1e-6)


def test_mpm_sees_what_one_feature_hides() -> None:
    mean_p, mean_q = np.array([1.0, 1.0]), np.array([0.0, 0.0])
    cov = np.array([[1.0, -0.99], [-0.99, 1.0]])
    alone = sharp_bound(mean_p, cov, mean_q, cov)
    assert mpm_bound(mean_p, cov, mean_q, cov) > 0.9 > 0.3 > alone


# The robust form


def test_robust_with_radii_of_nothing_is_mpm_and_falls_with_them() -> None:
    arguments = population(discrete(rectified, 3, 500), (1, 2))
    exact = Radii(np.array(0.0), np.array(1.0))
    np.testing.assert_allclose(
        robust_bound(*arguments, exact, exact), mpm_bound(*arguments), atol=1e-6
    )
    last = np.ones(500)
    for size in (0.05, 0.2, 1.0):
        radii = Radii(np.array(size), np.array(1 + size))
        found = robust_bound(*arguments, radii, radii)
        assert (found <= last + 1e-12).all()
        last = found
    nothing = Radii(np.array(0.0), np.array(np.inf))
    assert not robust_bound(*arguments, nothing, exact).any()


@given(seed=seeds)
@settings(max_examples=20)
def test_robust_holds_for_all_moments_inside_the_ellipsoids(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root_p, root_q = rng.normal(size=(2, 200, 2, 2))
    cov_p, cov_q = root_p @ np.swapaxes(root_p, 1, 2), root_q @ np.swapaxes(root_q, 1, 2)
    mean_p, mean_q = rng.normal(size=(2, 200, 2)) * 2
    shift, stretch = rng.uniform(0, 0.5), rng.uniform(1, 2)
    radii = Radii(np.array(shift), np.array(stretch))
    found = robust_bound(mean_p, cov_p, mean_q, cov_q, radii, radii)
    for _ in range(20):
        turn = rng.normal(size=(2, 200, 2, 1))
        turn *= shift / np.linalg.norm(turn, axis=2, keepdims=True)
        moved_p = mean_p + (root_p @ turn[0])[..., 0]
        moved_q = mean_q + (root_q @ turn[1])[..., 0]
        inner = rng.uniform(0.1, stretch)
        worst = mpm_bound(moved_p, cov_p * inner, moved_q, cov_q * stretch)
        assert (found <= worst + 1e-9).all()


def test_normal_radii_hold_as_often_as_they_say() -> None:
    """2,000 samples of normal vectors; mean and covariance both inside, at 90 %."""
    rng = np.random.default_rng(0)
    for number, size in ((40, 2), (200, 4)):
        sample = rng.normal(size=(2000, number, size))
        mean = sample.mean(axis=1)
        centred = sample - mean[:, None]
        cov = np.swapaxes(centred, 1, 2) @ centred / number
        radii = normal_radii(np.full(1, float(number)), size, 0.9)
        square = (mean * np.linalg.solve(cov, mean[..., None])[..., 0]).sum(axis=-1)
        inside = (square <= radii.shift**2) & (np.linalg.eigvalsh(cov)[:, 0] * radii.stretch >= 1.0)
        assert inside.mean() > 0.9
        assert (square <= radii.shift**2).mean() == pytest.approx(0.95, abs=0.015), "exact"


def test_a_handful_of_images_says_nothing() -> None:
    radii = normal_radii(np.array([0.0, 1.0, 2.0, 5.0, 1000.0]), 2, 0.95)
    assert np.isinf(radii.stretch[:4]).all()
    assert 1 < radii.stretch[4] < 1.5


# Bins


def test_a_difference_of_width_alone() -> None:
    """N(0, 1) against N(0, 9), TV 0.484: a threshold sees half of it, a histogram nearly all."""
    edges = np.linspace(-8, 8, 63)
    p, q = (np.diff(np.concatenate([[0], norm.cdf(edges, 0, s), [1]])) for s in (1.0, 3.0))
    assert threshold_bound(p, q) == pytest.approx(0.242, abs=0.002)
    assert histogram_bound(p, q) == pytest.approx(0.484, abs=0.003)
    z = (np.zeros(1), np.ones((1, 1)), np.zeros(1), np.full((1, 1), 9.0))
    assert sharp_bound(*z) == 0
    assert kernel_bound(gaussian_exponent(edges), p, q) > 0.2


def test_kernels_do_not_underflow() -> None:
    """All values at norms from which exp(-norm) is 0 in any float."""
    edges = np.array([[1e4, 1.1e4, 1e5]])
    exponent = -np.abs(edges[:, [0, 0, 1, 2]])
    p, q = np.array([[0, 1, 0, 0.0]]), np.array([[0, 0, 1, 0.0]])
    assert kernel_bound(exponent, p, q) == pytest.approx(1.0)
    assert norm_scale(edges) == 1.1e4
    assert norm_scale(np.zeros((2, 3))).tolist() == [[1.0], [1.0]]
    assert norm_scale(np.array([[-3.0, 0.0, 0.0, 2.0, 4.0]])) == 3.0


# Degenerate moments


@pytest.mark.parametrize("bound", [*BOUNDS, hellinger_bound])
def test_no_difference_no_bound(bound: Callable[..., np.ndarray]) -> None:
    for size in (1, 2, 3):
        mean, cov = np.ones(size), np.eye(size)
        assert bound(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)
        assert bound(0 * mean, 0 * cov, 0 * mean, 0 * cov) == 0


@pytest.mark.parametrize("bound", [*BOUNDS[1:4], hellinger_bound])
def test_two_points_are_told_apart(bound: Callable[..., np.ndarray]) -> None:
    for size in (1, 2, 3):
        zero = np.zeros((size, size))
        found = bound(np.full(size, 2.0), zero, np.full(size, 3.0), zero)
        assert found == pytest.approx(1.0)


@pytest.mark.parametrize("bound", [*BOUNDS, hellinger_bound])
def test_rounding_of_a_constant_is_not_a_difference(bound: Callable[..., np.ndarray]) -> None:
    mean = np.array([0.1, 0.01])
    noise = np.eye(2) * (1e-16 * mean) ** 2
    assert bound(mean, noise, mean * (1 + 1e-15), noise) < 1e-9


@pytest.mark.parametrize("bound", [t1_bound, fisher_bound, sharp_bound, mpm_bound])
def test_covariances_that_rounding_made_indefinite(bound: Callable[..., np.ndarray]) -> None:
    cov = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    found = bound(np.array([1.0, 1.0]), cov, np.array([0.0, 0.0]), cov)
    assert found == pytest.approx(bound(np.ones(1), np.eye(1), np.zeros(1), np.eye(1)), abs=1e-9)
