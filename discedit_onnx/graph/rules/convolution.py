"""Convolutions and pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..axes import Count
from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..scope import Scope


@rule("Conv")
def conv(scope: Scope) -> None:
    """X (N, C, ...), W (O, C / groups, ...): sums over channels, within groups."""
    groups = scope.attribute("group", 1)
    x, out = scope.ids(0, 1), scope.ids(1, 0)
    if groups == 1:
        inner = scope.ids(1, 1)
        scope.equate(x, inner)
        scope.contract(0, 1, scope.factor(1, inner))
    elif x is None or out is None:
        scope.pin(x, "feeds a grouped convolution whose weights can't be cut")
        scope.pin(out, "belongs to a grouped convolution whose input can't be cut")
        out = None
    elif groups >= len(x) // groups:
        _whole_groups(scope, x, out, groups)
    else:
        _same_offsets(scope, x, out, groups)
    _finish(scope, out)


def _whole_groups(scope: Scope, x: NDArray[np.int64], out: NDArray[np.int64], groups: int) -> None:
    """A group goes with all its inputs and outputs; depthwise is the case of one input each."""
    inputs, outputs = x.reshape(groups, -1), out.reshape(groups, -1)
    scope.equate(inputs[:, :1], inputs)
    scope.equate(inputs[:, :1], outputs)
    scope.extent("group", Count(0, x, inputs.shape[1]))


def _same_offsets(scope: Scope, x: NDArray[np.int64], out: NDArray[np.int64], groups: int) -> None:
    """The same channels go in every group, so that all groups stay equally wide."""
    inner = scope.ids(1, 1)
    inputs, outputs = x.reshape(groups, -1), out.reshape(groups, -1)
    if inner is None:
        scope.pin(x, "feeds a grouped convolution whose weights can't be cut")
    else:
        scope.equate(inner, inputs)
        weights = inner[None].repeat(groups, 0).reshape(-1)
        scope.contract(0, 1, scope.factor(1, weights))
    scope.equate(outputs[:1], outputs)


@rule("ConvTranspose")
def conv_transpose(scope: Scope) -> None:
    """X (N, C, ...), W (C, O / groups, ...): whole groups where there are several."""
    groups = scope.attribute("group", 1)
    x, inner = scope.ids(0, 1), scope.ids(1, 0)
    scope.equate(x, inner)
    if groups == 1:
        scope.contract(0, 1, scope.factor(1, inner))
        out = scope.ids(1, 1)
    elif x is None:
        out = None
    else:
        # W's second axis is shared by all groups, so it stays; a group goes as a whole.
        members = x.reshape(groups, -1)
        scope.equate(members[:, :1], members)
        out = members[:, 0].repeat(scope.shape(1)[1] or 1)
        scope.extent("group", Count(0, x, members.shape[1]))
    _finish(scope, out)


def _finish(scope: Scope, out: NDArray[np.int64] | None) -> None:
    """Tie the bias, and what FusedConv adds, to the output channels, and emit them."""
    if scope.has(2):
        out = scope.equate(out, scope.ids(2, 0))
    if scope.has(3):
        out = scope.equate(out, scope.ids(3, 1))
    rank = len(scope.shape(0))
    scope.emit([None, out, *[None] * (rank - 2)])


@rule("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
def pool(scope: Scope) -> None:
    """Each channel by itself; the second output of MaxPool (positions) carries nothing."""
    if len(scope.node.outputs) > 1 and scope.node.outputs[1]:
        raise Unsupported("gives positions counted over channels")
    if scope.node.op == "GlobalAveragePool":  # so tf2onnx writes a mean over a width, transposed
        for axis in range(2, len(scope.shape(0))):
            scope.inexact(scope.ids(0, axis), "takes a mean over this axis")
    scope.emit([None, scope.ids(0, 1), *[None] * (len(scope.shape(0)) - 2)])
