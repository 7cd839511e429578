"""Layers on regions of maps: the map, its transpose and its rows belong together."""

from __future__ import annotations

import numpy as np
import pytest

from discedit_onnx.editing.refit import sliding
from discedit_onnx.editing.refit.patches import Window
from discedit_onnx.editing.refit.sliding import Sliding

NONE = ((0, 0), (0, 0))
CASES = {
    "point": (Window((1, 1), (1, 1), (1, 1), NONE, (1, 1)), 1),
    "3x3": (Window((3, 3), (1, 1), (1, 1), NONE, (1, 1)), 1),
    "strided": (Window((3, 2), (2, 1), (1, 1), NONE, (1, 1)), 1),
    "dilated, in groups": (Window((2, 3), (1, 2), (2, 1), NONE, (1, 1)), 3),
}


@pytest.mark.parametrize("chunk", [1, 2000, 4 << 20])
@pytest.mark.parametrize("name", CASES)
def test_rows_map_and_transpose_agree(name, chunk, monkeypatch):
    """However little is worked on at a time, rows times matrix are what the layer gives."""
    monkeypatch.setattr(sliding, "CHUNK_BYTES", chunk)
    window, groups = CASES[name]
    slide = Sliding(window, groups, (3, 4))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(7, *slide.inside, 6)).astype(np.float32)
    features = 6 // groups * window.size
    matrix = generator.normal(size=(groups, features, 2)).astype(np.float32)
    given = slide.apply(x, matrix)
    there = np.flatnonzero(generator.random(7 * 12) < 0.6)
    rows = slide.patches(x, there)
    assert rows.shape == (groups, len(there), features)
    seen = (rows @ matrix).transpose(1, 0, 2).reshape(len(there), -1)
    np.testing.assert_allclose(seen, given.reshape(7 * 12, -1)[there], rtol=1e-4, atol=1e-4)
    y = generator.normal(size=given.shape).astype(np.float32)
    there_and_back = (slide.back(y, matrix) * x).sum(dtype=np.float64)
    np.testing.assert_allclose((y * given).sum(dtype=np.float64), there_and_back, rtol=1e-4)
