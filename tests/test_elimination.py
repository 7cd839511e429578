"""Backward elimination against least squares solved anew each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discedit_onnx.editing.refit import elimination
from discedit_onnx.editing.refit.elimination import RIDGE, System, eliminate


def problem(seed, components, width, outputs, unread=0):
    """Moments, weights, and a layer that reads some components as `width` features each."""
    rng = np.random.default_rng(seed)
    features = components * width
    x = rng.normal(size=(50, features)) @ rng.normal(size=(features, features)) + 1
    of = np.concatenate([np.arange(components), np.full(unread, -1)])
    order = rng.permutation(features).reshape(components, width)
    return x.T @ x / 50, rng.normal(size=(features, outputs)), order, rng.permutation(of)


def ridged(moments):
    return moments + (RIDGE * np.trace(moments) / len(moments) + 1e-30) * np.eye(len(moments))


def best_without(moments, weights, gone):
    """The error of the best weights without some features, and these weights, by definition."""
    gram = ridged(moments)
    left = np.setdiff1d(np.arange(len(gram)), gone)
    best = np.zeros_like(weights)
    best[left] = np.linalg.solve(gram[np.ix_(left, left)], gram[left] @ weights)
    change = best - weights
    return np.einsum("fo,fg,go->", change, gram, change), best


problems = given(
    st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 3), st.integers(1, 4),
    st.integers(0, 2),
)  # fmt: skip


@settings(max_examples=60)
@problems
def test_errors_and_weights_are_those_of_least_squares(seed, components, width, outputs, unread):
    """Also after several removals."""
    moments, weights, blocks, of = problem(seed, components, width, outputs, unread)
    spread = 3.0
    system = System(moments, weights, blocks, of, spread)
    alive = np.arange(len(of))
    gone = np.array([], dtype=np.int64)
    so_far = 0.0
    rng = np.random.default_rng(seed)
    while len(alive) > 1:
        found = system.errors(alive)
        for component, error in zip(alive, found, strict=True):
            features = blocks[of[component]] if of[component] >= 0 else gone[:0]
            wanted, _ = best_without(moments, weights, np.concatenate([gone, features]))
            assert error * spread == pytest.approx(wanted - so_far, rel=1e-5, abs=1e-7)
        out = rng.choice(alive, size=min(len(alive) - 1, rng.integers(1, 3)), replace=False)
        system.remove(out)
        alive = np.setdiff1d(alive, out)
        rows = of[out][of[out] >= 0]
        gone = np.concatenate([gone, blocks[rows].reshape(-1)])
        so_far, best = best_without(moments, weights, gone)
        np.testing.assert_allclose(system.weights, best, atol=1e-6, rtol=1e-5)


@settings(max_examples=60)
@problems
def test_elimination_is_greedy_and_its_errors_are_exact(seed, components, width, outputs, unread):
    """With two consumers, whose relative errors add up."""
    parts = [problem(seed + i, components, width, outputs, unread) for i in range(2)]
    spreads = (1.0, 5.0)
    systems = [System(*part, spread) for part, spread in zip(parts, spreads, strict=True)]
    size = components + unread
    done = eliminate(size, systems, range(size))
    assert len(set(done.order.tolist())) == len(done.order) == size - 1
    assert sorted(done.weights) == list(range(1, size))

    def error(gone):
        total = 0.0
        for (moments, weights, blocks, of), spread in zip(parts, spreads, strict=True):
            rows = of[gone][of[gone] >= 0]
            total += best_without(moments, weights, blocks[rows].reshape(-1))[0] / spread
        return total

    assert done.errors[0] == 0
    for count in range(1, size):
        before, now = done.order[: count - 1], done.order[:count]
        assert done.errors[count] == pytest.approx(error(now), rel=1e-5, abs=1e-7)
        others = np.setdiff1d(np.arange(size), before)
        least = min(error(np.append(before, c)) for c in others)
        assert error(now) == pytest.approx(least, rel=1e-5, abs=1e-7)
        for (moments, weights, blocks, of), found in zip(parts, done.weights[count], strict=True):
            rows = of[now][of[now] >= 0]
            _, best = best_without(moments, weights, blocks[rows].reshape(-1))
            np.testing.assert_allclose(found, best, atol=1e-6, rtol=1e-5)


def test_what_others_can_make_up_for_goes_first():
    """Component 2 is twice component 0, and 1 stands alone with little weight on it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    x[:, 2] = 2 * x[:, 0]
    weights = np.array([[5.0], [0.5], [5.0], [5.0]])
    system = System(x.T @ x / 200, weights, np.arange(4)[:, None], np.arange(4), 1.0)
    done = eliminate(4, [system], [1])
    assert done.order[0] in (0, 2)
    assert done.errors[1] < 0.25 * done.errors[2]


def test_a_wide_group_is_emptied_in_few_steps(monkeypatch):
    """All are removed but one, in an order that is still sensible, and kept weights are there."""
    monkeypatch.setattr(elimination, "CHUNKS", 4)
    moments = np.diag(np.arange(1.0, 41.0))
    system = System(moments, np.ones((40, 1)), np.arange(40)[:, None], np.arange(40), 1.0)
    done = eliminate(40, [system], [3, 17, 39, 40])
    np.testing.assert_array_equal(done.order, np.arange(39))
    assert sorted(done.weights) == [3, 17, 39]
    np.testing.assert_array_equal(done.weights[17][0][:17], 0)
    assert (np.diff(done.errors) > 0).all()


def test_a_group_of_one_stays():
    done = eliminate(1, [System(*problem(0, 1, 2, 2), 1.0)], [0, 1])
    assert len(done.order) == 0
    assert done.errors.tolist() == [0.0]
