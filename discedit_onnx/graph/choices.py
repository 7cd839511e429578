"""What can be picked behind a node that needs an axis whole, as a normalisation does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .axes import Equations


def tie_idle(equations: Equations, labels: NDArray[np.int64], free: NDArray[np.bool_]) -> None:
    """Let what comes out go with what goes in, where nothing is won by a choice.

    Where what goes in can be cut itself, or where no layer makes fewer outputs for the choice: a
    reader alone would get narrower, for the price of the picking.

    Parameters
    ----------
    equations
        Of one graph; ties are added to them.
    labels
        Connected component of each variable without these, shape (variables,).
    free
        Which of these can be removed, shape (connected components,).
    """
    summed = np.zeros(equations.count, dtype=bool)
    for contraction in equations.contractions:
        if contraction.weights is not None:
            summed[contraction.weights] = True
    made = np.zeros(len(labels), dtype=bool)
    layers = {b.tensor for b in equations.blocks if summed[b.start : b.stop].any()}
    for block in (b for b in equations.blocks if b.tensor in layers):
        ids = np.arange(block.start, block.stop)
        made[labels[ids[~summed[ids]]]] = True
    for choice in equations.choices:
        idle = ~made[labels[choice.ids]] | free[labels[choice.whole]]
        equations.edges.append((choice.whole[idle], choice.ids[idle]))
