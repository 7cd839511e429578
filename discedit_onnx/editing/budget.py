"""Which components to remove: a ranking cut off where the budget is met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..graph.cost import ParameterCount

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..graph.coupling import Coupling


def removable(coupling: Coupling, saliency: NDArray[np.float64]) -> NDArray[np.int64]:
    """Components in the order of their removal, least salient first.

    The most salient component of each group is left out: an axis can't become empty.

    Parameters
    ----------
    coupling
        Of the model.
    saliency
        Shape (components,).
    """
    order = np.argsort(saliency, kind="stable")
    last = np.zeros(coupling.size, dtype=bool)
    # Later entries overwrite earlier ones, so each group is left with its most salient.
    most = np.full(len(coupling.groups), -1)
    most[coupling.group_of[order]] = order
    last[most] = True
    return order[~last[order]]


def choose(coupling: Coupling, saliency: NDArray[np.float64], sparsity: float) -> NDArray[np.bool_]:
    """The least salient components whose removal takes away a share of the parameters.

    Parameters
    ----------
    coupling
        Of the model.
    saliency
        Shape (components,); the lowest go first.
    sparsity
        Share of the model's parameters, in [0, 1). At least this much is removed, and no more
        than the last component takes it over.

    Returns
    -------
    ndarray of bool, shape (components,)
        What to remove.

    Raises
    ------
    UsageError
        If the graph does not allow that much.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity {sparsity:g} is not in [0, 1)")
    count = ParameterCount(coupling)
    order = removable(coupling, saliency)

    def first(number: int) -> NDArray[np.bool_]:
        removed = np.zeros(coupling.size, dtype=bool)
        removed[order[:number]] = True
        return removed

    def reached(number: int) -> float:
        return 1 - count.left(first(number)) / count.total if count.total else 0.0

    if sparsity > reached(len(order)):
        raise UsageError(
            f"sparsity {sparsity:g} is more than this graph allows: at most "
            f"{np.floor(reached(len(order)) * 1e4) / 1e4:.4f}"
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= sparsity else (middle + 1, high)
    return first(low)
