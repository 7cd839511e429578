"""Operators that work on each element by itself, with broadcasting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..scope import Scope

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
    "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip

BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu",
    "Pow", "Sub", "Sum", "SwiGLU", "Where", "Xor",
)  # fmt: skip


@rule(*UNARY)
def unary(scope: Scope) -> None:
    """The outputs have the axes of the first input; further inputs are single numbers."""
    axes = scope.axes(0)
    for output in range(len(scope.node.outputs)):
        scope.emit(axes, output)


@rule("Dropout")
def dropout(scope: Scope) -> None:
    """Drops nothing, unless an input says that it is in training and the ratio is not 0."""
    ratio = scope.constant(1)
    if scope.has(2) and (ratio is None or ratio.any()):
        training = scope.constant(2)
        if training is None or training.any():
            raise Unsupported("makes random numbers")
    unary(scope)


@rule(*BROADCAST)
def broadcast(scope: Scope) -> None:
    """Inputs are aligned at their last axes; those of equal length are cut alike."""
    positions = [i for i in range(len(scope.node.inputs)) if scope.has(i)]
    rank = max(len(scope.shape(i)) for i in positions)
    out = [broadcast_axis(scope, positions, axis - rank) for axis in range(rank)]
    if scope.node.op in ("Div", "Mul") and not scope.reach.inexact:
        out = [_scaled(scope, ids, axis - rank) for axis, ids in enumerate(out)]
    scope.emit(out)


def _scaled(scope: Scope, ids: NDArray[np.int64] | None, axis: int) -> NDArray[np.int64] | None:
    """Variables behind a computed scale that all along an axis have in common.

    So ends a normalisation that is written out: with some indices gone, the scale would be another.
    """
    common = [i for i in (0, 1) if len(scope.shape(i)) >= -axis and scope.shape(i)[axis] == 1]
    if ids is None or not any(scope.varies(i) for i in common):
        return ids
    return scope.choose(axis + len(scope.output_shape(0)), ids)


def broadcast_axis(scope: Scope, positions: list[int], axis: int) -> NDArray[np.int64] | None:
    """Variables of one axis (counted from the end) of what inputs broadcast to."""
    present = [i for i in positions if len(scope.shape(i)) >= -axis]
    full, other = (_longest({i: scope.lengths(i)[run][axis] for i in present}) for run in (0, 1))
    carried = any(scope.carries(i, _front(scope, i, axis)) for i in present)
    if full != other or any(0 in scope.lengths(i)[0][axis:][:1] for i in present):
        if carried:
            raise Unsupported("an open length may be one or full")
        return None
    if not full or not (carried or all(scope.is_weight(i) for i in full)):
        return None
    out = scope.ids(full[0], _front(scope, full[0], axis))
    for i in full[1:]:
        out = scope.equate(out, scope.ids(i, _front(scope, i, axis)))
    return out


def _longest(lengths: dict[int, int]) -> list[int]:
    """The inputs that are not repeated; none if all have length one."""
    longest = max(lengths.values())
    return [i for i, length in lengths.items() if length == longest != 1]


def _front(scope: Scope, position: int, axis: int) -> int:
    """The axis counted from the front."""
    return axis + len(scope.shape(position))
