"""Operators that move, merge, split and repeat axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..axes import Count
from ..scope import UNKNOWN_SHAPES, Unsupported
from .elementwise import broadcast_axis
from .registry import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..scope import Scope
    from ..view import Node, View


@rule("Transpose")
def transpose(scope: Scope) -> None:
    """Axes change places."""
    axes = scope.axes(0)
    order = scope.attribute("perm", list(range(len(axes)))[::-1])
    scope.emit([axes[i] for i in order])


@rule("Squeeze")
def squeeze(scope: Scope) -> None:
    """Axes of length one go away."""
    shape = scope.shape(0)
    given = _axes_argument(scope)
    if given is None:
        if None in shape:
            raise Unsupported("drops axes of unknown length")
        given = [axis for axis, length in enumerate(shape) if length == 1]
        for axis in set(range(len(shape))) - set(given):
            if (ids := scope.ids(0, axis)) is not None:
                scope.pin(ids[:2], "would drop the axis if one index were left")
    dropped = {axis % len(shape) for axis in given}
    scope.emit([scope.ids(0, axis) for axis in range(len(shape)) if axis not in dropped])


@rule("Unsqueeze")
def unsqueeze(scope: Scope) -> None:
    """Axes of length one come in."""
    given = _axes_argument(scope)
    if given is None:
        raise Unsupported("has no axes")
    axes = iter(scope.axes(0))
    rank = len(scope.shape(0)) + len(given)
    added = {axis % rank for axis in given}
    scope.emit([None if axis in added else next(axes) for axis in range(rank)])


def _axes_argument(scope: Scope) -> list[int] | None:
    """`axes`, an attribute at first and an input since opset 13."""
    if scope.has(1):
        constant = scope.constant(1)
        if constant is None:
            raise Unsupported("its axes are computed in the graph")
        return [int(axis) for axis in constant.reshape(-1)]
    return scope.attribute("axes")  # type: ignore[no-any-return]


@rule("Flatten")
def flatten(scope: Scope) -> None:
    """Two axes: all before `axis` merged, and all from it on."""
    shape = scope.shape(0)
    split = scope.attribute("axis", 1)
    split = split + len(shape) if split < 0 else split
    axes = list(range(len(shape)))
    scope.emit([merge(scope, axes[:split]), merge(scope, axes[split:])])


@rule("Reshape")
def reshape(scope: Scope) -> None:
    """Axes are merged and split.

    A split axis is carried by the part that tells its components apart, where one does. Otherwise
    the first part does: splitting C into (a, b) ties the b components in each of the a parts
    together, and they go as a whole, as heads do. Where the parts are only shuffled, the longest
    does. On request the last part does, so that the same dimensions go in every head.
    """
    lengths = scope.output_lengths(0)[0]
    out: list[NDArray[np.int64] | None] = [None] * len(lengths)
    for before, after in _runs(scope):
        merged = merge(scope, before)
        parts = [axis for axis in after if lengths[axis] != 1]
        if merged is None or not parts:
            scope.pin(merged, "is reshaped to nothing")
            continue
        axis, ids = _carrying(scope, merged.reshape([lengths[part] for part in parts]), parts)
        out[axis] = ids
    target = _target(scope)
    for copied in [axis for axis, length in enumerate(target) if length == 0]:
        if not np.array_equal(merge(scope, [copied]), out[copied]):  # type: ignore[arg-type]
            raise Unsupported("copies the length of an axis that is cut in another way")
    counts = [Count(axis, ids) for axis, ids in enumerate(out) if ids is not None]
    scope.extent(1, *(count for count in counts if target[count.element] > 0), base=target)
    if scope.attribute("allowzero", 0) and 0 in target:  # where we write it, it stands for a copy
        followed = [count.ids for count in counts] + scope.counted(1)
        if followed:
            scope.leave_out("allowzero", np.concatenate(followed))
    scope.emit(out)


def _target(scope: Scope) -> list[int]:
    """The target shape; where it is computed, one that is right whatever the open lengths are."""
    constant = scope.constant(1)
    if constant is not None:
        return [int(length) for length in constant]
    lengths, out = scope.lengths(0), scope.output_lengths(0)
    target = []
    for axis, length in enumerate(scope.output_shape(0)):
        copied = axis < len(lengths[0]) and all(
            lengths[run][axis] == out[run][axis] for run in (0, 1)
        )
        target.append(length or (0 if copied else -1))
    if target.count(-1) > 1:
        raise Unsupported("its target shape has several open lengths")
    return target


def _carrying(
    scope: Scope, grid: NDArray[np.int64], parts: list[int]
) -> tuple[int, NDArray[np.int64]]:
    """Which of the parts of an axis carries its components, and their variables.

    `grid` holds the variables of the axis, one axis for each part.
    """
    for i, part in enumerate(parts):
        rows = np.moveaxis(grid, i, 0).reshape(grid.shape[i], -1)
        if (rows == rows[:, :1]).all():
            return part, rows[:, 0]
    whole = [i for i, part in enumerate(parts) if not _taken_apart(scope, part)] or [0]
    scope.split(grid.reshape(-1))
    if scope.inside:
        i = whole[-1]
    else:
        i = max(whole, key=lambda k: grid.shape[k]) if _shuffled(scope, parts) else whole[0]
    rows = np.moveaxis(grid, i, 0).reshape(grid.shape[i], -1)
    scope.equate(rows[:, :1], rows)
    return parts[i], rows[:, 0]


def _taken_apart(scope: Scope, axis: int) -> bool:
    """Whether an axis of the output is indexed further on: queries, keys and values are."""
    name, (axis,) = _behind_transposes(scope, [axis])
    rank = len(scope.view.shapes[name])
    return any(axis in _indexed(scope.view, node, rank) for node, _ in scope.view.consumers[name])


def _shuffled(scope: Scope, parts: list[int]) -> bool:
    """Whether the parts only change places, and are one axis again: a channel shuffle."""
    name, places = _behind_transposes(scope, parts)
    readers = scope.view.consumers[name]
    if places == parts or len(readers) != 1 or readers[0][0].op != "Reshape":
        return False
    lengths = scope.view.facts.lengths
    before, after = (lengths.get(t) for t in (name, readers[0][0].outputs[0]))
    if before is None or after is None:
        return False
    runs = ({i for i in run if before[0][i] != 1} for run, _ in _match(before[0], after[0]))
    return set(places) in runs


def _behind_transposes(scope: Scope, axes: list[int]) -> tuple[str, list[int]]:
    """What the output is called behind Transposes, and where some of its axes lie there."""
    name = scope.node.outputs[0]
    while len(readers := scope.view.consumers[name]) == 1 and readers[0][0].op == "Transpose":
        node = readers[0][0]
        rank = len(scope.view.shapes[name])
        order = node.attributes.get("perm") or list(range(rank))[::-1]
        axes = [order.index(axis) for axis in axes]
        name = node.outputs[0]
    return name, axes


def _indexed(view: View, node: Node, rank: int) -> list[int]:
    """The axes of its first input that a node takes apart."""
    if node.op in ("Gather", "Split"):
        return [node.attributes.get("axis", 0) % rank]
    if node.op == "Slice":
        given = view.constant(node.inputs[3]) if len(node.inputs) > 3 else None
        return [] if given is None else [int(axis) % rank for axis in given]
    return []


def _runs(scope: Scope) -> list[tuple[list[int], list[int]]]:
    """Runs of input axes and of output axes that hold the same elements.

    They must be the same whatever numbers the open lengths are given.
    """
    lengths, out = scope.lengths(0), scope.output_lengths(0)
    if 0 in (*lengths[0], *out[0]):
        raise Unsupported(UNKNOWN_SHAPES)
    first, second = (_match(lengths[run], out[run]) for run in (0, 1))
    if first != second:
        raise Unsupported("mixes axes of open length with others")
    return first


def _match(shape: Sequence[int], out_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of axes of equal product."""
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(out_shape):
        before: list[int] = []
        after: list[int] = []
        a = b = 1
        while a != b or not (before or after):
            if i == len(shape) and j == len(out_shape):
                raise Unsupported("its shapes do not fit together")
            if (a <= b and i < len(shape)) or j == len(out_shape):
                a *= shape[i]
                before.append(i)
                i += 1
            else:
                b *= out_shape[j]
                after.append(j)
                j += 1
        pairs.append((before, after))
    return pairs


def _known(shape: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(length for length in shape if length is not None)


def merge(scope: Scope, axes: list[int]) -> NDArray[np.int64] | None:
    """Variables of the axis that several axes of input 0 are merged into.

    Exactly one of them may carry components, of a constant the first; index (i, j) of the merged
    axis belongs to what carries it. Open lengths count as the first number that they were given:
    what they repeat are the same variables.
    """
    lengths = scope.lengths(0)[0]
    wide = [axis for axis in axes if lengths[axis] != 1]
    carrying = [axis for axis in wide if scope.carries(0, axis) or scope.is_weight(0)]
    if not carrying:
        return None
    if scope.is_weight(0):  # any of its axes could: that of whole heads does, and not their insides
        carrying = [carrying[-1 if scope.inside else 0]]
        scope.split(scope.ids(0, carrying[0]))
    if len(carrying) > 1:
        for axis in carrying:
            scope.pin(scope.ids(0, axis), "is merged with an axis that it can't be told from")
        return None
    if any(lengths[a] == 0 for a in axes):
        raise Unsupported("merges an axis of unknown length")
    (axis,) = carrying
    outer = math.prod(lengths[a] for a in axes if a < axis)
    inner = math.prod(lengths[a] for a in axes if a > axis)
    ids = scope.ids(0, axis)
    return None if ids is None else np.tile(ids.repeat(inner), outer)


@rule("Concat")
def concat(scope: Scope) -> None:
    """One axis is strung together, the others are cut alike."""
    positions = [i for i in range(len(scope.node.inputs)) if scope.has(i)]
    rank = len(scope.shape(positions[0]))
    along = scope.attribute("axis", 0) % rank
    out = [
        None if axis == along else broadcast_axis(scope, positions, axis - rank)
        for axis in range(rank)
    ]
    if any(scope.carries(i, along) for i in positions):
        out[along] = np.concatenate([_segment(scope, i, along) for i in positions])
    scope.emit(out)


def _segment(scope: Scope, position: int, axis: int) -> NDArray[np.int64]:
    ids = scope.ids(position, axis)
    if ids is not None:
        return ids
    length = scope.shape(position)[axis]
    if length is None:
        raise Unsupported("strings together parts of unknown length")
    return scope.pinned(length, "is strung together with it")


@rule("Split")
def split(scope: Scope) -> None:
    """One axis is cut into parts, whose lengths are written down where they follow a cut."""
    axes = scope.axes(0)
    along = scope.attribute("axis", 0) % len(axes)
    ids = axes[along]
    lengths = [scope.output_shape(i)[along] for i in range(len(scope.node.outputs))]
    if ids is None:
        for output in range(len(lengths)):
            scope.emit(axes, output)
        return
    if None in lengths or sum(_known(lengths)) != len(ids):
        raise Unsupported("splits into parts of unknown length")
    parts = np.split(ids, np.cumsum(_known(lengths))[:-1])
    scope.separate(parts)
    if scope.has(1) and scope.constant(1) is None:
        raise Unsupported("its parts are computed in the graph")
    counts = (Count(output, part) for output, part in enumerate(parts))
    scope.extent("split" if scope.opset < 13 else 1, *counts, base=lengths)
    if scope.attribute("num_outputs") is not None:
        scope.leave_out("num_outputs", ids)
    for output, part in enumerate(parts):
        scope.emit([part if axis == along else axes[axis] for axis in range(len(axes))], output)


@rule("Resize", "Upsample")
def resize(scope: Scope) -> None:
    """Axes that keep their length pass; the sizes that are written down follow."""
    if scope.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Unsupported("crops while it resizes")
    shape, out_shape = scope.shape(0), scope.output_shape(0)
    ratios = scope.constant(2 if scope.node.op == "Resize" and scope.opset >= 11 else 1)
    sizes = scope.constant(3)
    axes = [axis % len(shape) for axis in scope.attribute("axes", range(len(shape)))]
    if ratios is not None and ratios.size:
        same = {axis for axis, ratio in zip(axes, ratios, strict=True) if ratio == 1}
    elif scope.has(3) or scope.attribute("scales") is not None:
        same = {axis for axis in axes if shape[axis] and shape[axis] == out_shape[axis]}
    else:
        raise Unsupported("its sizes are computed in the graph")
    same |= set(range(len(shape))) - set(axes)
    out = [scope.ids(0, axis) if axis in same else None for axis in range(len(shape))]
    if sizes is None and scope.has(3):  # as of another map's shape, which must be cut alike then
        if scope.node.inputs[3] not in scope.view.facts.numbers:
            raise Unsupported("its sizes are computed in the graph")
        for element, axis in enumerate(axes):
            out[axis] = scope.follow(3, element, out[axis])
    elif sizes is not None:
        found = [(element, out[axis]) for element, axis in enumerate(axes)]
        scope.extent(3, *(Count(element, ids) for element, ids in found if ids is not None))
    scope.emit(out)
