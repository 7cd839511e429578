"""Operators that reduce or normalise over some axes and leave the others alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    from ..scope import Scope


@rule(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduce(scope: Scope) -> None:
    """The axes that are not reduced pass; the reduced ones are pinned.

    A mean over fewer indices is another one, but still a mean: exporters of old opsets write a
    layer normalisation as means over a width.
    """
    axes = scope.attribute("axes")
    if scope.has(1):
        constant = scope.constant(1)
        if constant is None:
            raise Unsupported("the axes that it reduces are computed in the graph")
        axes = constant.tolist()
    if not axes:
        if scope.attribute("noop_with_empty_axes", 0):
            scope.emit(scope.axes(0))
            return
        raise Unsupported("reduces over all axes")
    if scope.node.op == "ReduceMean":
        for axis in axes:
            scope.inexact(scope.ids(0, axis % len(scope.shape(0))), "takes a mean over this axis")
    _drop(scope, axes, bool(scope.attribute("keepdims", 1)))


@rule("ArgMax", "ArgMin")
def arg(scope: Scope) -> None:
    """Positions along one axis, which is pinned: they are counted over it."""
    _drop(scope, [scope.attribute("axis", 0)], bool(scope.attribute("keepdims", 1)))


def _drop(scope: Scope, axes: list[int], keep: bool) -> None:
    rank = len(scope.shape(0))
    dropped = {axis % rank for axis in axes}
    left = [None if axis in dropped else scope.ids(0, axis) for axis in range(rank)]
    scope.emit([ids for axis, ids in enumerate(left) if keep or axis not in dropped])


@rule("Hardmax", "LogSoftmax", "Softmax", opset=(13, None))
def softmax(scope: Scope) -> None:
    """Normalised over one axis."""
    rank = len(scope.shape(0))
    axis = scope.attribute("axis", -1) % rank
    scope.emit([None if i == axis else scope.ids(0, i) for i in range(rank)])


@rule("Hardmax", "LogSoftmax", "Softmax", opset=(7, 12))
def flat_softmax(scope: Scope) -> None:
    """Normalised over all axes from `axis` on."""
    rank = len(scope.shape(0))
    axis = scope.attribute("axis", 1) % rank
    scope.emit([None if i >= axis else scope.ids(0, i) for i in range(rank)])
