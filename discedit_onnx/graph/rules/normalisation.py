"""Normalisations, and what else works along some axes and leaves the others alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..axes import Count
from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..scope import Scope

OVER = "normalises over this axis"


@rule("BatchNormalization")
def batch_normalization(scope: Scope) -> None:
    """Scale, bias, mean and variance follow the channels."""
    if scope.attribute("training_mode", 0) or any(scope.node.outputs[1:]):
        raise Unsupported("is in training mode")
    axes = scope.axes(0)
    if len(axes) < 2:
        raise Unsupported("has no channel axis")
    for parameter in range(1, 5):
        axes[1] = scope.equate(axes[1], scope.ids(parameter, 0))
    scope.emit(axes)


@rule("InstanceNormalization")
def instance_normalization(scope: Scope) -> None:
    """Scale and bias follow the channels; the axes after them are normalised over.

    Exporters write a group normalisation so, with the channels of a group merged into those axes.
    """
    channels = scope.ids(0, 1)
    for parameter in (1, 2):
        channels = scope.equate(channels, scope.ids(parameter, 0))
    rest = [normalised(scope, i, scope.ids(0, i)) for i in range(2, len(scope.shape(0)))]
    scope.emit([None, channels, *rest])


def normalised(scope: Scope, axis: int, ids: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Variables that come out along an axis that is normalised over.

    With fewer indices going in, the statistics are others; of what comes out, any may be left.
    """
    scope.inexact(ids, OVER)
    return ids if ids is None or scope.reach.inexact else scope.choose(axis, ids)


@rule("GroupNormalization", opset=(18, None))
def group_normalization(scope: Scope) -> None:
    """Statistics of a group are those of all its channels, so groups go as a whole.

    Of a single one that would be all: then it is a normalisation over a width.
    """
    channels, groups = scope.ids(0, 1), scope.attribute("num_groups")
    if groups == 1:
        for parameter in (1, 2):
            if scope.shape(parameter) != (1,):
                channels = scope.equate(channels, scope.ids(parameter, 0))
        channels = normalised(scope, 1, channels)
    elif channels is not None:
        members = channels.reshape(groups, -1)
        scope.equate(members[:, :1], members)
        scope.extent("num_groups", Count(0, channels, members.shape[1]))
        for parameter in (1, 2):
            of_groups = scope.shape(parameter)[0] == groups != len(channels)
            scope.equate(members[:, 0] if of_groups else channels, scope.ids(parameter, 0))
    scope.emit([None, channels, *[None] * (len(scope.shape(0)) - 2)])


@rule("LayerNormalization", "RMSNormalization", opset=(17, None))
def layer_normalization(scope: Scope) -> None:
    """The axes from `axis` on are normalised over; the others pass.

    Without some of its indices, the mean and variance over an axis are others.
    """
    rank = len(scope.shape(0))
    axis = scope.attribute("axis", -1) % rank
    axes = [scope.ids(0, i) for i in range(axis)]
    for i in range(axis, rank):
        ids = scope.ids(0, i)
        for parameter in range(1, len(scope.node.inputs)):
            own = i - rank + len(scope.shape(parameter))
            if own >= 0 and scope.shape(parameter)[own] != 1:
                ids = scope.equate(ids, scope.ids(parameter, own))
        axes.append(normalised(scope, i, ids))
    for output in range(len(scope.node.outputs)):
        scope.emit(axes if output == 0 else [*axes[:axis], *[None] * (rank - axis)], output)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(scope: Scope) -> None:
    """Some axes are normalised over, the others pass."""
    rank = len(scope.shape(0))
    along = {axis % rank for axis in scope.attribute("axes", [0, 2, 3])}
    axes = [scope.ids(0, axis) for axis in range(rank)]
    scope.emit([normalised(scope, i, ids) if i in along else ids for i, ids in enumerate(axes)])


@rule("LpNormalization", "CumSum", "TopK")
def along_axes(scope: Scope) -> None:
    """What works along some axes leaves the others alone."""
    rank = len(scope.shape(0))
    if scope.node.op == "CumSum":
        constant = scope.constant(1)
        if constant is None:
            raise Unsupported("its axis is computed in the graph")
        along = [int(axis) for axis in constant.reshape(-1)]
    else:
        along = [scope.attribute("axis", -1)]
    taken = {axis % rank for axis in along}
    axes = [None if axis in taken else scope.ids(0, axis) for axis in range(rank)]
    for output in range(len(scope.node.outputs)):
        scope.emit(axes, output)


@rule("Trilu")
def trilu(scope: Scope) -> None:
    """A triangle of the last two axes; those before them pass."""
    rank = len(scope.shape(0))
    scope.emit([*(scope.ids(0, axis) for axis in range(rank - 2)), None, None])


@rule("GridSample", opset=(16, None))
def grid_sample(scope: Scope) -> None:
    """Each channel by itself, at the positions of the grid."""
    scope.emit([None, scope.ids(0, 1), *[None] * (len(scope.shape(0)) - 2)])
