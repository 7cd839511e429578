"""Second moments that values of batches are added to."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from discedit_onnx.calibration import second
from discedit_onnx.calibration.accumulator import Accumulator
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.products import multiplier
from discedit_onnx.calibration.second import Positions, SecondMoments
from discedit_onnx.calibration.taps import Tap

CHANNELS = 7
TIMES = multiplier()


def exact(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and centred co-moment of (N, C, P), in float64."""
    flat = values.astype(np.float64).swapaxes(0, 1).reshape(values.shape[1], -1)
    mean = flat.mean(axis=1)
    return mean, (flat - mean[:, None]) @ (flat - mean[:, None]).T


def assert_near(found: SecondMoments, values: np.ndarray) -> None:
    mean, comoment = exact(values)
    size = np.sqrt(np.diag(comoment)) + 1e-6 * np.abs(mean).max()
    assert found.count == values.shape[0] * values.shape[2]
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-6)
    assert (np.abs(found.comoment - comoment) <= 2e-6 * np.outer(size, size) + 1e-9).all()
    np.testing.assert_array_equal(found.comoment, found.comoment.T)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 30), max_size=5).map(sorted),
    st.sampled_from([1, 3, 256]),
    st.integers(1, 5),
    st.sampled_from([0.0, 3.0, 1000.0]),
)
def test_values_in_any_parts_give_the_moments_of_all(seed, cuts, band, places, drift) -> None:
    """Also where the means of the parts lie far apart, as where classes come one by one."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(30, CHANNELS, places)) @ np.eye(places)
    values = np.einsum("ncp,cd->ndp", values, rng.normal(size=(CHANNELS, CHANNELS)))
    values += drift * np.linspace(0, 1, 30)[:, None, None]
    values = values.astype(np.float32)
    before, second.BAND = second.BAND, band
    try:
        found = SecondMoments.empty(CHANNELS)
        for rows in np.split(np.arange(30), cuts):
            found = found.add_positions(Positions(values[rows]), TIMES)
        found.mirror()
    finally:
        second.BAND = before
    assert_near(found, values)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 70), st.integers(1, 300))
def test_products_are_those_of_numpy(seed, rows, columns, length) -> None:
    """Also of rows among others, which do not lie side by side in memory."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, length)).astype(np.float32)
    b = rng.normal(size=(columns, 2 * length)).astype(np.float32)[:, ::2]
    want = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(TIMES(a, b), want, rtol=1e-5, atol=1e-5 * np.sqrt(length))


def test_channels_may_lie_last_in_memory() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6, CHANNELS)).astype(np.float32)
    found = SecondMoments.empty(CHANNELS).add_positions(Positions(values.swapaxes(1, 2)), TIMES)
    found.mirror()
    assert_near(found, values.swapaxes(1, 2))


def test_moments_are_whole_each_time_they_are_asked_for() -> None:
    """A checkpoint has both halves of a matrix, and adding goes on behind it."""
    values = np.random.default_rng(1).normal(size=(9, CHANNELS, 4)).astype(np.float32)
    taps = (Tap("y", 1, CHANNELS, 4),)
    start = Moments.empty(taps, ("a",), "0" * 64)
    start.second["y"] = SecondMoments.empty(CHANNELS)  # type: ignore[index]
    gathered = Accumulator(start)
    for end in (3, 5, 9):
        begin = {3: 0, 5: 3, 9: 5}[end]
        gathered.add_second({"y": Positions(values[begin:end])})
        assert_near(gathered.moments.second["y"], values[:end])


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_pieces_are_pooled_and_those_without_a_position_are_nothing(seed, sizes):
    generator = np.random.default_rng(seed)
    values = [generator.normal(3, 2, size=(1, CHANNELS, size)) for size in sizes]
    found = [exact(x) if x.size else (np.full(CHANNELS, np.nan),) * 2 for x in values]
    pooled = SecondMoments.pooled(
        np.stack([mean for mean, _ in found]),
        np.stack([np.broadcast_to(part, (CHANNELS, CHANNELS)) for _, part in found]),
        np.array(sizes, np.float32),
    )
    if not sum(sizes):
        assert pooled.count == 0
        assert not pooled.mean.any()
        assert not pooled.comoment.any()
        return
    assert_near(pooled, np.concatenate(values, axis=2))
