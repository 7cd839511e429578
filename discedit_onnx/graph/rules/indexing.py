"""Operators that take parts of axes, pad, repeat, and fold axes into each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..axes import Count
from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..scope import Scope


@rule("Slice", opset=(10, None))
def slice_axes(scope: Scope) -> None:
    """A part of an axis, or every few of its indices; where it begins and ends follows the cut."""
    rank = len(scope.shape(0))
    starts, ends = (whole(scope.constant(position)) for position in (1, 2))
    count = scope.shape(1)[0]
    axes = list(range(count or 0))
    steps: list[int] | None = [1] * len(axes)
    if scope.has(3):
        given = whole(scope.constant(3))
        if given is None:
            raise Unsupported("its axes are computed in the graph")
        axes = [axis % rank for axis in given]
    if scope.has(4):
        steps = whole(scope.constant(4))
    out = [None if axis in axes else scope.ids(0, axis) for axis in range(rank)]
    carried = {i: axis for i, axis in enumerate(axes) if scope.carries(0, axis)}
    if carried and (starts is None or ends is None or steps is None):
        raise Unsupported("its bounds are computed in the graph")
    begin, end = list(starts or []), list(ends or [])
    counts: tuple[list[Count], list[Count]] = ([], [])
    touched = []
    for i, axis in carried.items():
        ids = scope.ids(0, axis)
        assert ids is not None
        assert steps is not None
        taken = range(len(ids))[begin[i] : end[i] : steps[i]]
        out[axis] = ids[list(taken)]
        scope.separate([ids[list(taken)]])
        if len(taken) == len(ids) and steps[i] == -1:
            continue  # what bounds the whole axis bounds less of it too
        if steps[i] < 0 or not taken:
            scope.pin(ids, "takes them backwards" if taken else "takes none of them")
            continue
        begin[i], end[i] = taken[0], taken[-1] + 1
        touched.append(ids)
        if begin[i] >= steps[i]:
            counts[0].append(Count(i, ids[: begin[i]]))
        counts[1].append(Count(i, ids[: end[i]]))
        first = begin[i] if begin[i] >= steps[i] else 0
        _tie_runs(scope, ids[first:], len(taken), steps[i])
    if carried:
        # What is written as counted from the end, too, follows from here on from the start.
        scope.extent(1, *counts[0], base=begin, touched=touched if begin != starts else ())
        scope.extent(2, *counts[1], base=end, touched=touched if end != ends else ())
    scope.emit(out)


def _tie_runs(scope: Scope, ids: NDArray[np.int64], number: int, step: int) -> None:
    """Tie each index that is taken to those that are passed over: the step then stays right.

    To those behind it, or, where less than a step lies before the first, to those of the same
    multiple of the step: of x[0::2] and x[1::2] the pairs go.
    """
    whole, last = np.split(ids[: number * step], [(number - 1) * step])
    runs = whole.reshape(-1, step)
    scope.equate(runs[:, :1], runs)
    scope.equate(last[:1], last)


@rule("Slice", opset=(7, 9))
def slice_attributes(scope: Scope) -> None:
    """The same, with bounds in attributes."""
    rank = len(scope.shape(0))
    starts, ends = scope.attribute("starts"), scope.attribute("ends")
    begin, end = list(starts), list(ends)
    axes = [axis % rank for axis in scope.attribute("axes", range(len(begin)))]
    out = [None if axis in axes else scope.ids(0, axis) for axis in range(rank)]
    counts: tuple[list[Count], list[Count]] = ([], [])
    touched = []
    for i, axis in enumerate(axes):
        if scope.carries(0, axis) and (ids := scope.ids(0, axis)) is not None:
            begin[i], end[i], _ = slice(begin[i], end[i]).indices(len(ids))
            out[axis] = ids[begin[i] : end[i]]
            scope.separate([ids[begin[i] : end[i]]])
            touched.append(ids)
            counts[0].append(Count(i, ids[: begin[i]]))
            counts[1].append(Count(i, ids[: end[i]]))
    scope.extent("starts", *counts[0], base=begin, touched=touched if begin != starts else ())
    scope.extent("ends", *counts[1], base=end, touched=touched if end != ends else ())
    scope.emit(out)


@rule("Gather")
def gather(scope: Scope) -> None:
    """Picks along one axis, which is pinned; the others pass (an embedding's width).

    Of a list of what is picked, though, any may go.
    """
    rank = len(scope.shape(0))
    axis = scope.attribute("axis", 0) % rank
    picked: list[NDArray[np.int64] | None] = [None] * len(scope.shape(1))
    listed = scope.is_weight(1) or (scope.carries(1, 0) and not scope.varies(1))
    if len(picked) == 1 and listed and scope.carries(0, axis):
        picked = [scope.ids(1, 0)]
    before = [scope.ids(0, a) for a in range(axis)]
    after = [scope.ids(0, a) for a in range(axis + 1, rank)]
    scope.emit([*before, *picked, *after])


@rule("GatherND")
def gather_nd(scope: Scope) -> None:
    """Picks along the first axes, which are pinned; the others pass."""
    rank, picked = len(scope.shape(0)), scope.shape(1)
    if picked[-1] is None:
        raise Unsupported("picks along a number of axes that is computed in the graph")
    first = scope.attribute("batch_dims", 0) + picked[-1]
    scope.emit([*[None] * (len(picked) - 1), *(scope.ids(0, axis) for axis in range(first, rank))])


@rule("Pad")
def pad(scope: Scope) -> None:
    """New indices are variables of their own; how many there are follows the cut."""
    rank = len(scope.shape(0))
    place: str | int = "pads" if scope.opset < 11 else 1
    pads = scope.attribute("pads") if scope.opset < 11 else whole(scope.constant(1))
    axes = list(range(rank))
    if scope.has(3):
        given = whole(scope.constant(3))
        if given is None:
            raise Unsupported("its axes are computed in the graph")
        axes = [axis % rank for axis in given]
    carried = [axis for axis in axes if scope.carries(0, axis)]
    if pads is None:
        if carried:
            raise Unsupported("its padding is computed in the graph")
        pads = [1] * (2 * len(axes))  # whatever it is, these axes carry nothing
    out = [scope.ids(0, axis) for axis in range(rank)]
    counts = []
    for i, axis in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        ids = out[axis]
        if not before and not after:
            continue
        if ids is None or axis not in carried:
            scope.pin(ids, "is padded")
            out[axis] = None
            continue
        if before < 0 or after < 0 or scope.attribute("mode", "constant") != "constant":
            raise Unsupported("pads channels with other than a constant")
        front, back = scope.fresh(before), scope.fresh(after)
        out[axis] = np.concatenate([front, ids, back])
        counts += [Count(i, front), Count(i + len(axes), back)]
    scope.extent(place, *counts)
    scope.emit(out)


@rule("Expand")
def expand(scope: Scope) -> None:
    """Axes that are there already pass; repeated ones carry nothing.

    A length of one in the target keeps what is there, so the target needs no length of an axis
    that is cut.
    """
    before, after = scope.lengths(0), scope.output_lengths(0)
    added = len(after[0]) - len(before[0])
    target: list[int] = []
    out: list[NDArray[np.int64] | None] = []
    for axis, length in enumerate(scope.output_shape(0)):
        kept = axis >= added and all(before[r][axis - added] == after[r][axis] for r in (0, 1))
        out.append(scope.ids(0, axis - added) if kept and after[0][axis] > 1 else None)
        target.append(1 if kept else length or 0)
    carried = [ids for ids in out if ids is not None]
    if 0 not in target:
        scope.extent(1, base=target, touched=carried)
    elif carried and any(value.max() > 1 for value in _written(scope, out)):
        raise Unsupported("its target shape is computed in the graph")
    scope.emit(out)


def _written(scope: Scope, out: list[NDArray[np.int64] | None]) -> list[NDArray[np.int64]]:
    """What the target says of the axes that carry variables, in both runs."""
    axes = [axis - len(out) for axis, ids in enumerate(out) if ids is not None]
    pair = scope.view.facts.pairs.get(scope.node.inputs[1])
    if pair is None:
        raise Unsupported("its target shape is computed in the graph")
    return [value[[axis for axis in axes if -axis <= len(value)]] for value in pair]


@rule("Tile")
def tile(scope: Scope) -> None:
    """A repeated axis is its variables, repeated; one that keeps its length passes."""
    repeats = whole(scope.constant(1))
    before, after = scope.lengths(0), scope.output_lengths(0)
    out: list[NDArray[np.int64] | None] = [None] * len(before[0])
    for axis in range(len(out)):
        if all(before[run][axis] == after[run][axis] for run in (0, 1)):
            out[axis] = scope.ids(0, axis)
        elif repeats is not None:
            ids = scope.ids(0, axis)
            out[axis] = None if ids is None else np.tile(ids, repeats[axis])
        elif scope.carries(0, axis):
            raise Unsupported("its repeats are computed in the graph")
    scope.emit(out)


@rule("DepthToSpace")
def depth_to_space(scope: Scope) -> None:
    """Channels move into blocks of pixels: those of one block go as a whole."""
    size = scope.attribute("blocksize") ** 2
    ids = scope.ids(0, 1)
    out = None
    if ids is not None:
        crd = scope.attribute("mode", "DCR") == "CRD"
        members = ids.reshape(-1, size) if crd else ids.reshape(size, -1).T
        scope.equate(members[:, :1], members)
        out = members[:, 0]
    scope.emit([None, out, None, None])


@rule("SpaceToDepth")
def space_to_depth(scope: Scope) -> None:
    """Blocks of pixels move into channels: each is there several times."""
    ids = scope.ids(0, 1)
    size = scope.attribute("blocksize") ** 2
    scope.emit([None, None if ids is None else np.tile(ids, size), None, None])


def whole(constant: NDArray[np.int64] | None) -> list[int] | None:
    """A constant as a list of integers."""
    return None if constant is None else [int(x) for x in constant.reshape(-1)]
