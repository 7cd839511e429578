"""Connected components are SciPy's, number by number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as of_scipy

from discedit_onnx.graph.components import connected_components


def check(a: np.ndarray, b: np.ndarray, size: int) -> None:
    matrix = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(size, size))
    want = of_scipy(matrix.tocsr(), directed=False)[1].astype(np.int64)
    np.testing.assert_array_equal(connected_components(a, b, size), want, strict=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0, 2))
def test_random_graphs(seed: int, size: int, density: float) -> None:
    """With loops, double edges, and vertices that have none."""
    check(*np.random.default_rng(seed).integers(0, size, (2, int(density * size))), size)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([1, 2, 10, 1000]))
def test_random_trees(seed: int, size: int, reach: int) -> None:
    """From paths to stars, their vertices in random order."""
    rng = np.random.default_rng(seed)
    child = np.arange(1, size)
    parent = np.maximum(child - rng.integers(1, reach + 1, size - 1), 0)
    order = rng.permutation(size)
    check(order[child], order[parent], size)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_no_edges(size: int) -> None:
    none = np.empty(0, np.int64)
    assert connected_components(none, none, size).tolist() == list(range(size))


def test_calibration_does_not_load_scipy() -> None:
    """That is what these few lines are for."""
    code = (
        "import sys; import discedit_onnx as dx; dx.calibrate; "
        "sys.exit(any(part in sys.modules for part in ('scipy.sparse', 'scipy.special')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
