"""Certified bounds: their coverage, how they follow the data, and how many images they need."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from discedit_onnx.calibration.histograms import Histograms
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.scoring.binned import histogram_bound, threshold_bound
from discedit_onnx.scoring.certificates import (
    CERTIFICATES,
    CERTIFIED_BY,
    certify,
    error_of_each,
)
from discedit_onnx.scoring.comparison import OneVsRest, Pairs, Sets
from discedit_onnx.scoring.confidence import band_width, difference_bound, gap_and_spreads
from discedit_onnx.scoring.planning import plan_samples
from discedit_onnx.scoring.witness import WITNESSES

if TYPE_CHECKING:
    from collections.abc import Callable

    Family = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

BINS = 16
FALSE_ALARM = 1e-6

seeds = st.integers(0, 2**32 - 1)
every_certificate = pytest.mark.parametrize("name", sorted(CERTIFICATES))


# Families of laws on bins: probabilities (S, B) of P and Q


def shifted(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two normals, three bins apart on average."""
    centre = rng.uniform(4, 9, (number, 1))
    return normal(centre, 2.0), normal(centre + rng.uniform(0, 6, (number, 1)), 2.0)


def widened(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two normals with the same centre."""
    centre = rng.uniform(6, 9, (number, 1))
    return normal(centre, 1.5), normal(centre, 1.5 + rng.uniform(0, 4, (number, 1)))


def rectified(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An atom in the first bin, and less and less from there on."""

    def law() -> np.ndarray:
        atom = rng.uniform(0, 1, (number, 1))
        tail = np.exp(-np.arange(BINS - 1) * rng.uniform(0.05, 1.0, (number, 1)))
        return np.concatenate([atom, (1 - atom) * tail / tail.sum(axis=1, keepdims=True)], axis=1)

    return law(), law()


def scattered(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Unrelated probabilities, many of them small."""
    p, q = rng.gamma(0.3, size=(2, number, BINS)) + 1e-9
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


def alike(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One law twice: any bound above 0 is too large."""
    p, _ = scattered(rng, number)
    return p, p


def normal(centre: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(-0.5 * ((np.arange(BINS) - centre) / width) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


FAMILIES = (shifted, widened, rectified, scattered, alike)
EDGES = np.arange(BINS - 1) + 0.5


def sample(rng: np.random.Generator, law: np.ndarray, size: int) -> np.ndarray:
    """Counts (2, S, B) of both folds."""
    return np.stack([rng.multinomial(size - size // 2, law), rng.multinomial(size // 2, law)])


def draw(family: Family, seed: int, number: int, size: int) -> tuple[np.ndarray, ...]:
    """Counts of P and Q, edges, and the true distances."""
    rng = np.random.default_rng(seed)
    p, q = family(rng, number)
    edges = np.tile(EDGES, (number, 1))
    truth = 0.5 * np.abs(p - q).sum(axis=1)
    return sample(rng, p, size), sample(rng, q, size), edges, truth


# Coverage


@every_certificate
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("size", [30, 100, 500])
def test_a_certificate_is_seldom_too_large(name: str, family: Family, size: int) -> None:
    number = 300
    for error in (0.05, 0.5):
        *data, truth = draw(family, 1, number, size)
        failures = int((CERTIFICATES[name](*data, error) > truth + 1e-12).sum())
        assert stats.binomtest(failures, number, error, "greater").pvalue > FALSE_ALARM


@pytest.mark.parametrize("plug_in", [threshold_bound, histogram_bound])
def test_the_plug_in_does_not_pass_the_same_test(plug_in: Callable[..., np.ndarray]) -> None:
    p, q, _, truth = draw(alike, 1, 300, 100)
    share_p, share_q = (counts.sum(axis=0) / 100 for counts in (p, q))
    failures = int((plug_in(share_p, share_q) > truth + 1e-12).sum())
    assert stats.binomtest(failures, 300, 0.05, "greater").pvalue < FALSE_ALARM


@every_certificate
def test_a_certificate_is_worth_something(name: str) -> None:
    p, q = normal(np.array([[4.0]]), 1.5), normal(np.array([[11.0]]), 1.5)
    data = (20000 * p[None]).astype(int), (20000 * q[None]).astype(int), EDGES[None]
    least = 0.65 if name in ("fisher", "sharp") else 0.93
    assert (
        CERTIFICATES[name](np.repeat(data[0], 2, 0), np.repeat(data[1], 2, 0), data[2], 0.05)
        > least
    )


@pytest.mark.parametrize(("count_p", "count_q"), [(1, 1), (5, 9), (12, 12), (3, 40)])
@pytest.mark.parametrize("error", [0.5, 0.05, 1e-4])
def test_the_difference_of_two_probabilities_exactly(
    count_p: int, count_q: int, error: float
) -> None:
    """The probability of failure is summed over all outcomes, for many p and q."""
    hits_p, hits_q = np.meshgrid(np.arange(count_p + 1), np.arange(count_q + 1), indexing="ij")
    bound = difference_bound(hits_p, np.array(count_p), hits_q, np.array(count_q), error)
    shares = np.concatenate([np.linspace(0, 1, 41), [0.001, 0.999]])
    p, q = (part.reshape(-1, 1, 1) for part in np.meshgrid(shares, shares))
    chance = stats.binom.pmf(hits_p, count_p, p) * stats.binom.pmf(hits_q, count_q, q)
    fails = (chance * (bound > np.maximum(p - q, 0) + 1e-12)).sum(axis=(1, 2))
    assert fails.max() <= error


@given(seed=seeds, error=st.sampled_from([0.3, 0.05, 1e-3, 1e-8, 1e-12]))
@settings(max_examples=8)
def test_the_difference_against_a_search_over_the_region(seed: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    count_p, count_q = np.round(10.0 ** rng.uniform(0, 4, (2, 50))).astype(int)
    hits_p, hits_q = (rng.binomial(count, rng.random(50)) for count in (count_p, count_q))
    found = difference_bound(hits_p, count_p, hits_q, count_q, error)
    depth = special.gammainccinv(2.0, error)
    share = np.linspace(0, 1, 401)[1:-1, None]
    with np.errstate(invalid="ignore"):
        p = special.betaincinv(hits_p, count_p - hits_p + 1, np.exp(-share * depth))
        r = special.betaincinv(count_q - hits_q, hits_q + 1, np.exp(-(1 - share) * depth))
    least = (np.where(hits_p > 0, p, 0) + np.where(hits_q < count_q, r, 0)).min(axis=0) - 1
    assert (found <= np.maximum(least, 0) + 1e-12).all()
    assert (found >= least - 1e-3).all()


def test_the_inverse_beta_function_holds_far_out() -> None:
    """The level that is inverted is really that of the tail, to the smallest errors in use."""
    rng = np.random.default_rng(0)
    count = np.round(10.0 ** rng.uniform(0, 6, 2000))
    hits = np.ceil(count * rng.random(2000))
    level = 10.0 ** rng.uniform(-16, 0, 2000)
    p = special.betaincinv(hits, count - hits + 1, level)
    np.testing.assert_allclose(special.betainc(hits, count - hits + 1, p), level, rtol=1e-6)


@pytest.mark.parametrize(("count_p", "count_q"), [(10, 10), (30, 300), (200, 200)])
@pytest.mark.parametrize("error", [0.5, 0.05])
def test_the_band_holds_and_is_narrower_than_two_bands(
    count_p: int, count_q: int, error: float
) -> None:
    width = band_width(np.array([float(count_p)]), np.array([float(count_q)]), error)
    rng, number = np.random.default_rng(0), 1000
    u, v = (np.sort(rng.random((number, count)), axis=1) for count in (count_p, count_q))
    distance = stats.ks_2samp(u, v, axis=1).statistic  # the true one is 0
    failures = int((distance > width).sum())
    assert stats.binomtest(failures, number, error, "greater").pvalue > FALSE_ALARM
    if error <= 0.05:
        each = np.sqrt(0.5 * np.log(4 / error))
        assert width < each / np.sqrt(count_p) + each / np.sqrt(count_q)


def test_the_band_of_many_pairs_is_that_of_each() -> None:
    counts = np.array([[10.0, 20.0, 10.0], [500.0, 20.0, 7.0]])
    found = band_width(counts, counts[::-1], 0.05)
    for place in np.ndindex(2, 3):
        assert found[place] == band_width(counts[place], counts[::-1][place], 0.05)


@pytest.mark.parametrize("error", [0.5, 0.05])
def test_gap_and_spreads_hold(error: float) -> None:
    rng, number = np.random.default_rng(0), 2000
    for a, b in ((0.1, 0.1), (0.05, 2.0), (5.0, 1.0)):
        x, y = rng.beta(a, b, (number, 20)), rng.beta(b, a, (number, 50))
        gap, s_p, s_q = gap_and_spreads(
            *(x.mean(axis=1), x.var(axis=1, ddof=1), np.array(20.0)),
            *(y.mean(axis=1), y.var(axis=1, ddof=1), np.array(50.0)),
            error,
        )
        true_gap = abs(stats.beta.mean(a, b) - stats.beta.mean(b, a))
        wrong = (gap > true_gap) | (s_p < stats.beta.std(a, b)) | (s_q < stats.beta.std(b, a))
        pvalue = stats.binomtest(int(wrong.sum()), number, error, "greater").pvalue
        assert pvalue > FALSE_ALARM


# How certificates follow the data


@every_certificate
@given(seed=seeds, size=st.integers(0, 300))
@settings(max_examples=15)
def test_range_shape_and_type(name: str, seed: int, size: int) -> None:
    p, q, edges, _ = draw(scattered, seed, 12, size)
    found = CERTIFICATES[name](p.reshape(2, 3, 4, BINS), q.reshape(2, 3, 4, BINS), edges[:4], 0.05)
    assert found.shape == (3, 4)
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()


@every_certificate
@given(seed=seeds)
@settings(max_examples=10)
def test_each_comparison_stands_alone(name: str, seed: int) -> None:
    p, q, edges, _ = draw(scattered, seed, 10, 80)
    whole = CERTIFICATES[name](p, q, edges, 0.05)
    turned = CERTIFICATES[name](p[:, ::-1], q[:, ::-1], edges[::-1], 0.05)
    np.testing.assert_array_equal(turned, whole[::-1])
    for i in range(10):
        assert CERTIFICATES[name](p[:, i], q[:, i], edges[i], 0.05) == whole[i]


@pytest.mark.parametrize("name", sorted(set(CERTIFICATES) - {"histogram"}))
@given(seed=seeds)
@settings(max_examples=10)
def test_which_law_is_called_p_hardly_matters(name: str, seed: int) -> None:
    """`histogram` puts bins where both halves show the same on the side of Q, so it is left out."""
    p, q, edges, _ = draw(shifted, seed, 20, 100)
    there, back = CERTIFICATES[name](p, q, edges, 0.05), CERTIFICATES[name](q, p, edges, 0.05)
    np.testing.assert_allclose(back, there, atol=2e-3)


@every_certificate
@given(seed=seeds)
@settings(max_examples=10)
def test_more_confidence_costs_and_more_images_gain(name: str, seed: int) -> None:
    p, q, edges, _ = draw(shifted, seed, 20, 200)
    loose, strict = (CERTIFICATES[name](p, q, edges, error) for error in (0.1, 1e-6))
    assert (strict <= loose + 1e-3).all()
    assert strict.sum() < loose.sum()
    more = CERTIFICATES[name](4 * p, 4 * q, edges, 0.1)
    assert (more >= loose - 1e-3).all()


@given(seed=seeds)
@settings(max_examples=20)
def test_a_certificate_lies_below_the_estimate(seed: int) -> None:
    p, q, edges, _ = draw(scattered, seed, 50, 150)
    share_p, share_q = (counts.sum(axis=0) / 150 for counts in (p, q))
    steps = np.cumsum(share_p - share_q, axis=-1)
    above = {
        "threshold": threshold_bound(share_p, share_q),
        "interval": np.ptp(steps, axis=-1),
        "fisher": CERTIFICATES["sharp"](p, q, edges, 0.05),
    }
    for name, estimate in above.items():
        assert (CERTIFICATES[name](p, q, edges, 0.05) <= estimate + 1e-12).all()


def test_an_interval_sees_what_a_threshold_does_not() -> None:
    p, q = normal(np.array([[7.5]]), 1.0), normal(np.array([[7.5]]), 6.0)
    p, q = (np.repeat((500 * law[None]).astype(int), 2, 0) for law in (p, q))
    edges = EDGES[None]
    low, high = (CERTIFICATES[name](p, q, edges, 0.05)[0] for name in ("threshold", "interval"))
    assert high > low + 0.1
    assert CERTIFICATES["interval"](q, p, edges, 0.05)[0] == pytest.approx(high, abs=2e-3)


@every_certificate
def test_no_images_on_a_side_certify_nothing(name: str) -> None:
    p, q, edges, _ = draw(scattered, 0, 5, 1000)
    for sides in ((0 * p, q), (p, 0 * q), (0 * p, 0 * q)):
        assert not CERTIFICATES[name](*sides, edges, 0.05).any()


@every_certificate
def test_a_feature_that_never_changes_certifies_nothing(name: str) -> None:
    counts = np.zeros((2, 1, BINS), int)
    counts[:, :, 0] = 500
    assert not CERTIFICATES[name](counts, counts, np.zeros((1, BINS - 1)), 0.05).any()


# All channels and classes at once


def calibrated(seed: int, channels: int = 6, classes: int = 4, size: int = 300) -> Moments:
    """Moments that hold histograms; all classes but the last have the same law."""
    rng = np.random.default_rng(seed)
    p, q = normal(np.full((channels, 1), 4.0), 2.0), normal(np.full((channels, 1), 11.0), 2.0)
    laws = [p] * (classes - 1) + [q]
    counts = np.stack([sample(rng, law, size) for law in laws], axis=1).astype(np.uint32)
    empty = Moments.empty(
        (Tap("relu", 1, channels, 4),), [str(k) for k in range(classes)], "0" * 64
    )
    edges = np.tile(EDGES, (channels, 1))
    return replace(empty, histograms=Histograms("mean", edges, counts))


@every_certificate
def test_bounds_hold_for_all_at_once(name: str) -> None:
    moments = calibrated(0)
    found = certify(name, moments)
    assert found.shape == (6, 4)
    counts = moments.histograms.counts.astype(np.int64)
    error = error_of_each(0.95, 6 * 4)
    assert error == pytest.approx(0.05 / 24)
    for k in range(4):
        rest = counts.sum(axis=1) - counts[:, k]
        alone = CERTIFICATES[name](counts[:, k], rest, moments.histograms.edges, error)
        np.testing.assert_array_equal(found[:, k], alone)


@every_certificate
def test_pairs_and_sets(name: str) -> None:
    moments = calibrated(1, size=2000)
    pairs = certify(name, moments, Pairs((0, 1, 3)))
    assert pairs.shape == (6, 3)
    assert not pairs[:, 0].any()
    assert (pairs[:, 1:] > 0.3).all()
    sets = certify(name, moments, Sets((0, 1), (3,)))
    assert (sets[:, 0] > 0.3).all()
    np.testing.assert_allclose(
        certify(name, moments, OneVsRest((3,)), 1 - 0.05 / 4), certify(name, moments)[:, 3:]
    )


@every_certificate
def test_of_many_identical_laws_none_is_said_to_differ(name: str) -> None:
    rng = np.random.default_rng(2)
    law, _ = scattered(rng, 2000)
    counts = np.stack([sample(rng, law, 60) for _ in range(3)], axis=1).astype(np.uint32)
    empty = Moments.empty((Tap("relu", 1, 2000, 4),), list("abc"), "0" * 64)
    moments = replace(empty, histograms=Histograms("mean", np.tile(EDGES, (2000, 1)), counts))
    assert not certify(name, moments).any()


def test_every_witness_has_its_certificate() -> None:
    assert set(CERTIFIED_BY) == set(WITNESSES)
    assert set(CERTIFIED_BY.values()) == set(CERTIFICATES)


def test_what_cannot_be_certified_is_said() -> None:
    moments = calibrated(0)
    with pytest.raises(UsageError, match="no certificate named 'mpm'; there are threshold"):
        certify("mpm", moments)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            certify("threshold", moments, confidence=confidence)
    with pytest.raises(DataError, match="calibrate again"):
        certify("threshold", replace(moments, histograms=None))


# How many images it takes


@every_certificate
def test_planned_images_are_enough_and_not_too_many(name: str) -> None:
    number = plan_samples(0.3, 0.6, 42240, certificate=name)
    error = error_of_each(0.95, 42240)
    if name not in ("fisher", "sharp"):
        shares = np.zeros(64)
        shares[0], shares[-1] = 0.8, 0.2
        edges = np.linspace(-1, 1, 63)

        def certified(images: float) -> float:
            p = np.round(np.stack([0.5 * images * shares] * 2)).astype(int)
            return float(CERTIFICATES[name](p, p[:, ::-1], edges, error))

        assert certified(1.05 * number) >= 0.3 > certified(0.9 * number)
    assert plan_samples(0.3, 0.6, 1, certificate=name) < number
    assert plan_samples(0.3, 0.6, 42240, 0.5, certificate=name) < number
    assert plan_samples(0.4, 0.6, 42240, certificate=name) > number
    assert plan_samples(0.3, 0.7, 42240, certificate=name) < number
    assert plan_samples(0.3, 0.6, 42240, certificate=name, ratio=9.0) < number


def test_plans_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="a sample that shows more"):
        plan_samples(0.6, 0.6, 10)
    with pytest.raises(UsageError, match="a sample that shows more"):
        plan_samples(0.6, 1.2, 10)
    with pytest.raises(UsageError, match="ask for less"):
        plan_samples(0.3, 0.30001, 10)
    with pytest.raises(UsageError, match="no certificate named"):
        plan_samples(0.3, 0.6, 10, certificate="t1")
    with pytest.raises(UsageError, match="between 0 and 1"):
        plan_samples(0.3, 0.6, 10, 95.0)
    with pytest.raises(UsageError, match="more than 0"):
        plan_samples(0.3, 0.6, 10, ratio=0.0)
