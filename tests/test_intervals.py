"""Confidence intervals of shares, and of losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from discedit_onnx.intervals import CONFIDENCE, newcombe, wilson
from discedit_onnx.report import build


def outcomes(a, b, c, d):
    """Samples that both, only the first, only the second and none of two models get right."""
    pairs = [(1, 1)] * a + [(1, 0)] * b + [(0, 1)] * c + [(0, 0)] * d
    before, after = np.array(pairs, dtype=bool).T
    return before, after


def test_the_published_example():
    """Newcombe 1998, table II: of 50 pairs 36, 12, 2 and 0; method 10."""
    low, high = newcombe(*outcomes(36, 12, 2, 0))
    assert (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


@settings(max_examples=100)
@given(*[st.integers(0, 60)] * 4)
def test_intervals_hold_what_was_seen_and_turn_with_the_pair(a, b, c, d):
    if not a + b + c + d:
        return
    before, after = outcomes(a, b, c, d)
    low, high = newcombe(before, after)
    seen = before.mean() - after.mean()
    assert -1 - 1e-9 <= low <= seen + 1e-9
    assert seen - 1e-9 <= high <= 1 + 1e-9
    np.testing.assert_allclose(newcombe(after, before), (-high, -low), atol=1e-12)


def test_coverage():
    """Of true drops between 0 and 5 points, on 300 images: about 95 of 100 are held."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(1500):
        lost, won = rng.uniform(0, 0.06), rng.uniform(0, 0.02)
        a, b, c, d = rng.multinomial(300, [0.88, lost, won, 0.12 - lost - won])
        low, high = newcombe(*outcomes(a, b, c, d))
        inside.append(low <= lost - won <= high)
    assert 0.93 <= np.mean(inside) <= 0.99


def test_wilson():
    """Against its definition: the shares that lie just z standard errors away."""
    low, high = wilson(7, 50)
    for share in (low, high):
        z = abs(0.14 - share) / np.sqrt(share * (1 - share) / 50)
        assert z == pytest.approx(1.959964, abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=6))
def test_those_of_a_report(pairs):
    count = np.array([max(pair) for pair in pairs])
    hits = np.array([float(min(pair)) for pair in pairs])
    for found, k, n in zip(build.accuracies(hits, count), hits, count, strict=True):
        if not n:
            assert found is None
            continue
        expected = binomtest(int(k), int(n)).proportion_ci(CONFIDENCE, "wilson")
        assert found.low == pytest.approx(expected.low, abs=1e-9)
        assert found.high == pytest.approx(expected.high, abs=1e-9)
        assert 0 <= found.low <= found.value <= found.high <= 1
