"""Recurrent layers.

A hidden unit owns one row in each gate, and is read by all units one step later. With its column
of the recurrent weights masked nobody reads it, whatever it holds: that equals its removal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..axes import Count
from .registry import rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..scope import Scope

X, W, R, B, INITIAL_H, INITIAL_C, P = 0, 1, 2, 3, 5, 6, 7
"""Positions of the inputs; position 4 holds the lengths of the sequences."""


@rule("GRU", "LSTM", "RNN")
def recurrent(scope: Scope) -> None:
    """X (S, B, I), W (D, gates H, I), R (D, gates H, H): all gates and both directions together."""
    scope.otherwise("goes through it step by step")
    inner = scope.ids(W, 2)
    scope.equate(scope.ids(X, 2), inner, "is multiplied with what can't be cut")
    scope.contract(X, 2, scope.factor(W, inner))
    hidden = scope.ids(R, 2)
    for position in (W, R, B, P):
        if scope.has(position):
            hidden = _gates(scope, hidden, scope.ids(position, 1))
    for position in (INITIAL_H, INITIAL_C):
        if scope.has(position):
            hidden = _initial(scope, hidden, position)
    scope.contract(R, 2, scope.factor(R, hidden))
    if hidden is not None and scope.attribute("hidden_size") is not None:
        scope.extent("hidden_size", Count(0, hidden))
    scope.emit([None, None, None, hidden])
    for state in (1, 2):
        scope.emit([None, None, hidden], state)


def _gates(
    scope: Scope, hidden: NDArray[np.int64] | None, rows: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """Tie an axis that holds the hidden units once for each gate."""
    if hidden is None or rows is None:
        return scope.equate(hidden, rows, "belongs to a recurrence that can't be cut")
    scope.equate(hidden[None], rows.reshape(-1, len(hidden)))
    return hidden


def _initial(
    scope: Scope, hidden: NDArray[np.int64] | None, position: int
) -> NDArray[np.int64] | None:
    """Tie an initial state; zeros that the graph fills in are left out, which means the same."""
    if hidden is not None and scope.is_zero(position):
        scope.leave_out(position, hidden)
        return hidden
    return scope.equate(hidden, scope.ids(position, 2), "meets an initial state that can't be cut")


@rule("ReverseSequence", opset=(10, None))
def reverse_sequence(scope: Scope) -> None:
    """Turns time around, for each sequence up to its length; the axes after both pass."""
    rank = len(scope.shape(0))
    scope.emit([None, None, *(scope.ids(0, axis) for axis in range(2, rank))])
