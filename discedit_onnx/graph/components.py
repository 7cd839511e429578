"""Connected components of a graph, in a few passes over its edges.

SciPy has them too, but to import `scipy.sparse.csgraph` takes 26 MB, a fifth of what it takes to
run a small network; nothing else needs it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def connected_components(
    a: NDArray[np.int64], b: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """Component of each vertex, numbered by the first vertex of each.

    Every tree with a smaller neighbour is hooked to the smallest one, and all trees are made
    flat. What is left of a tree that had no smaller neighbour either took in one of its own, or
    has a smaller one now: two rounds halve the trees at least, so that there are O(log size)
    rounds of O(log size) passes; in networks, one or two rounds.

    Parameters
    ----------
    a, b
        Both ends of each edge, from 0 to size - 1.
    size
        Number of vertices.
    """
    root = np.arange(size)
    while len(a):
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, above := root[root]):
            root = above
        a, b = root[a], root[b]
        apart = a != b
        a, b = a[apart], b[apart]
    number = np.cumsum(root == np.arange(size)) - 1
    return number[root]
