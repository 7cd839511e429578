"""Axis variables: which indices of which axes must be removed together.

Every index of every axis that can carry components is an integer variable. A rule for each
operator says which variables are equal and which are pinned; connected components of these
equations are what can be removed (see `coupling.py`). Rules speak through a `Scope`, which is
safe by construction: an axis that a rule does not mention is pinned, and so is everything that a
node without a rule touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .choices import Choice
from .numbers import Numbers
from .view import is_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .shapes import Shape
    from .view import Node, View


OTHER_LENGTH = "meets an axis of another length: only one open length of an input fits the weights"


class Unsupported(Exception):
    """Raised by a rule that can't carry components through a node; the reason is its message."""


@dataclass(frozen=True)
class Block:
    """The variables `start` to `stop` belong to one axis of one constant."""

    tensor: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Contraction:
    """A node sums over an axis of one of its inputs: here a removed component disappears.

    Attributes
    ----------
    node, input, axis
        The node, the position of its input, and the axis that it sums over.
    ids
        Variables of that axis.
    weights
        Variables of the constant that it is multiplied with, index by index, or None where both
        factors are computed.
    """

    node: Node
    input: int
    axis: int
    ids: NDArray[np.int64]
    weights: NDArray[np.int64] | None


@dataclass(frozen=True)
class Count:
    """One element of a list of numbers says how many of some variables there are.

    Attributes
    ----------
    element
        Position in the list.
    ids
        The variables that it counts.
    unit
        How many of them make one (for `group`: the channels in a group).
    """

    element: int
    ids: NDArray[np.int64]
    unit: int = 1


@dataclass(frozen=True)
class Extent:
    """Numbers that a node reads, and that must be right after a cut.

    Attributes
    ----------
    node
        The node that they belong to.
    place
        Name of an attribute, or position of an input.
    base
        What they are without a cut; empty for what is left out after one.
    counts
        Which of them follow a cut.
    depends
        Further variables whose removal makes it necessary to write the numbers anew: what the
        graph computes here would change, or does not fit any more.
    """

    node: Node
    place: str | int
    base: NDArray[Any]
    counts: tuple[Count, ...]
    depends: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class PinReason:
    """Why variables can't be removed: the node that holds them, and what it does."""

    ids: NDArray[np.int64]
    node: Node | None
    why: str


@dataclass(frozen=True)
class Reach:
    """What may be cut beyond, or in place of, what is cut by default.

    Attributes
    ----------
    inexact
        Also what can't be removed without changing what is left: the widths that a layer
        normalisation takes its statistics over.
    inside_heads
        Where an axis is split, the indices of its last part in place of the first, if these can be
        cut: the same dimensions in every attention head, not whole heads.
    """

    inexact: bool = False
    inside_heads: bool = False


class Equations:
    """All that the rules said about one graph."""

    def __init__(
        self, view: View, reach: Reach = Reach(), whole: frozenset[int] = frozenset()
    ) -> None:
        self.view = view
        self.reach = reach
        self.whole = whole  # nodes that keep heads whole although their insides are asked for
        self.splits: list[tuple[int, NDArray[np.int64]]] = []
        self.count = 0
        self.loose: list[NDArray[np.int64]] = []
        self.blocks: list[Block] = []
        self.axes: dict[str, list[NDArray[np.int64] | None]] = {}
        self.edges: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.pins: list[PinReason] = []
        self.contractions: list[Contraction] = []
        self.extents: list[Extent] = []
        self.parts: list[NDArray[np.int64]] = []
        self.choices: list[Choice] = []
        self.numbers = Numbers(view, self.axis)
        # Tensors whose axes are fixed, with the reason: graph inputs, and what gave up.
        self._opaque: dict[str, tuple[Node | None, str]] = dict.fromkeys(
            view.inputs, (None, "graph input")
        )
        # Axes of constants that some rule passed over, whether or not they have variables yet.
        self._passed_over: dict[tuple[str, int], tuple[Node | None, str]] = {}
        self._allocated: dict[tuple[str, int], NDArray[np.int64]] = {}

    def fresh(self, count: int) -> NDArray[np.int64]:
        """New variables."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def axis(self, name: str, axis: int) -> NDArray[np.int64] | None:
        """Variables of one axis; those of constants and fixed tensors are made on demand."""
        if name in self.axes:
            return self.axes[name][axis]
        key = (name, axis)
        if key not in self._allocated:
            if name in self.view.initializers:
                ids = self.fresh(self.view.initializers[name].dims[axis])
                self.blocks.append(Block(name, axis, self.count - len(ids), self.count))
            elif name in self._opaque:
                length = self.view.shapes.get(name, ())[axis : axis + 1]
                if not length or length[0] is None:
                    return None
                ids = self.fresh(length[0])
                self.pin(ids, *self._opaque[name])
            else:
                return None
            self._allocated[key] = ids
        return self._allocated[key]

    def give_up(self, node: Node, why: str) -> None:
        """Pin all that a node reads, and fix what it makes."""
        for name in filter(None, node.inputs):
            self.pin_tensor(name, node, why)
        for name in filter(None, node.outputs):
            self.axes.pop(name, None)
            self._opaque[name] = (node, why)

    def pin(self, ids: NDArray[np.int64] | None, node: Node | None, why: str) -> None:
        """Forbid the removal of these variables."""
        if ids is not None and len(ids):
            self.pins.append(PinReason(ids, node, why))

    def pass_over(self, name: str, axis: int, node: Node | None, why: str) -> None:
        """Pin an axis that a rule did not mention."""
        if name in self.axes:
            self.pin(self.axes[name][axis], node, why)
        elif name in self.view.initializers:
            self._passed_over.setdefault((name, axis), (node, why))

    def pin_tensor(self, name: str, node: Node | None, why: str) -> None:
        """Pin every axis of a tensor, and what it counts if it is a number."""
        self.pin(self.numbers.counted(name), node, why)
        for axis in range(self.view.rank(name) or len(self.axes.get(name, ()))):
            self.pass_over(name, axis, node, why)

    def hold(self, name: str, node: Node, why: str) -> None:
        """Pin a tensor; a weight so that it is told of, also where nothing else reads it."""
        self.pin_tensor(name, node, why)
        tensor = self.view.initializers.get(name)
        if tensor is not None and is_float(tensor.data_type):
            for axis in range(len(tensor.dims)):
                self.pin(self.axis(name, axis), node, why)

    def close(self) -> None:
        """Pin the graph's outputs, and what was passed over but got variables elsewhere."""
        for name in self.view.outputs:
            self.pin_tensor(name, None, "graph output")
        for key, (node, why) in self._passed_over.items():
            if key in self._allocated:
                self.pin(self._allocated[key], node, why)


class Scope:
    """What a rule sees of one node, and how it speaks about it."""

    def __init__(self, equations: Equations, node: Node) -> None:
        self._equations = equations
        self._mentioned: set[tuple[int, int]] = set()
        self._told: set[str | int] = set()
        self._otherwise = "works across this axis"
        self.node = node
        self.view = equations.view
        self.reach = equations.reach
        self.inside = self.reach.inside_heads and node.index not in equations.whole
        self.opset = self.view.opsets.get(node.domain, 1)

    # --- what the node looks like

    def has(self, position: int) -> bool:
        """Whether the optional input at `position` is there."""
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def shape(self, position: int = 0) -> Shape:
        """Shape of an input."""
        return self._known(self.node.inputs[position])

    def lengths(self, position: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both shapes that an input had when open lengths were given numbers."""
        self.shape(position)
        return self.view.facts.lengths[self.node.inputs[position]]

    def output_shape(self, position: int = 0) -> Shape:
        """Shape of an output."""
        return self._known(self.node.outputs[position])

    def output_lengths(self, position: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The same of an output."""
        self.output_shape(position)
        return self.view.facts.lengths[self.node.outputs[position]]

    def _known(self, name: str) -> Shape:
        shape = self.view.shapes.get(name)
        if shape is None:
            raise Unsupported("its shapes are unknown")
        return shape

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        return self.node.attributes.get(name, default)

    def constant(self, position: int) -> NDArray[Any] | None:
        """Value of a constant input; None if it is computed or not there."""
        return self.view.constant(self.node.inputs[position]) if self.has(position) else None

    def is_weight(self, position: int) -> bool:
        """Whether an input is a constant whose variables are made on demand."""
        return self.node.inputs[position] in self.view.initializers

    def varies(self, position: int) -> bool:
        """Whether an input depends on what the model is given."""
        return self.node.inputs[position] in self.view.varying

    def factor(self, position: int, ids: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Variables of an input if it holds a constant's very elements, else None.

        Setting these of the constant to zero then sets the input to zero.
        """
        return ids if self.view.origin(self.node.inputs[position]) else None

    def is_zero(self, position: int) -> bool:
        """Whether an input is filled with zeros, whatever its shape."""
        return self.view.is_zero(self.node.inputs[position])

    # --- what the rule says

    def ids(self, position: int, axis: int) -> NDArray[np.int64] | None:
        """Variables of an axis of an input, which thereby counts as mentioned."""
        self._mentioned.add((position, axis))
        return self._equations.axis(self.node.inputs[position], axis)

    def axes(self, position: int = 0) -> list[NDArray[np.int64] | None]:
        """Variables of all axes of an input."""
        return [self.ids(position, axis) for axis in range(len(self.shape(position)))]

    def carries(self, position: int, axis: int) -> bool:
        """Whether an axis of a computed input has variables; mentions nothing."""
        axes = self._equations.axes.get(self.node.inputs[position])
        return axes is not None and axes[axis] is not None

    def equate(
        self, a: NDArray[np.int64] | None, b: NDArray[np.int64] | None, why: str = ""
    ) -> NDArray[np.int64] | None:
        """Say that two axes are cut alike; returns the variables that stand for both."""
        if a is None or b is None:
            self.pin(b if a is None else a, why or "meets an axis that can't be cut")
            return None
        if a is not b:
            pairs = zip(a.shape[::-1], b.shape[::-1], strict=False)
            if any(i != j and 1 not in (i, j) for i, j in pairs):
                raise Unsupported(OTHER_LENGTH)
            self._equations.edges.append(tuple(np.broadcast_arrays(a, b)))  # type: ignore[arg-type]
        return a

    def pin(self, ids: NDArray[np.int64] | None, why: str) -> None:
        """Say that these can't be removed."""
        self._equations.pin(ids, self.node, why)

    def inexact(self, ids: NDArray[np.int64] | None, why: str) -> None:
        """Say that removing these changes what is left; they are pinned unless that is allowed."""
        if not self.reach.inexact:
            self.pin(ids, why)
        elif ids is not None:
            self._equations.loose.append(ids)

    def split(self, ids: NDArray[np.int64] | None) -> None:
        """Say that an axis could be carried by its first part or its last one, see `Reach`."""
        if ids is not None:
            self._equations.splits.append((self.node.index, ids))

    def choose(self, axis: int, whole: NDArray[np.int64]) -> NDArray[np.int64]:
        """New variables of an axis of the first output, for which the node needs others whole."""
        ids = self._equations.fresh(len(whole))
        self._equations.choices.append(Choice(self.node.outputs[0], axis, whole, ids))
        return ids

    def pinned(self, length: int, why: str) -> NDArray[np.int64]:
        """New variables that can't be removed, to stand beside others on one axis."""
        ids = self._equations.fresh(length)
        self.pin(ids, why)
        return ids

    def fresh(self, length: int) -> NDArray[np.int64]:
        """New variables that nothing makes: padding."""
        return self._equations.fresh(length)

    def separate(self, parts: Sequence[NDArray[np.int64]]) -> None:
        """Say that an axis is taken apart into these, none of which may become empty."""
        self._equations.parts.extend(parts)

    def emit(self, axes: Sequence[NDArray[np.int64] | None], output: int = 0) -> None:
        """Give an output its variables."""
        if output < len(self.node.outputs) and self.node.outputs[output]:
            self._equations.axes[self.node.outputs[output]] = list(axes)

    def contract(self, position: int, axis: int, weights: NDArray[np.int64] | None = None) -> None:
        """Say that the node sums over this axis of this input."""
        ids = self.ids(position, axis)
        if self.shape(position)[axis] is None:
            self.pin(ids, "sums over an axis of open length")
        elif ids is not None:
            record = Contraction(self.node, position, axis, ids, weights)
            self._equations.contractions.append(record)

    def extent(
        self,
        place: str | int,
        *counts: Count,
        base: Any = None,
        touched: Sequence[NDArray[np.int64]] = (),
    ) -> None:
        """Say that an attribute or an input holds numbers of which some count variables.

        `base` stands for the numbers where they differ from run to run. They are written when
        something counted or `touched` is removed, or something that they are computed from.
        """
        self._told.add(place)
        if base is None:
            base = self.attribute(place) if isinstance(place, str) else self.constant(place)
        sources = list(touched)
        if isinstance(place, int) and self.has(place):
            computed = self._equations.numbers.counted(self.node.inputs[place])
            sources += [] if computed is None else [computed]
        if counts or sources:
            depends = np.concatenate(sources) if sources else None
            extent = Extent(self.node, place, np.asarray(base), counts, depends)
            self._equations.extents.append(extent)

    def leave_out(self, place: str | int, ids: NDArray[np.int64]) -> None:
        """Say that an attribute or an input does nothing, and goes as soon as any of these does."""
        if isinstance(place, int):
            self._mentioned.update((place, axis) for axis in range(len(self.shape(place))))
        self._told.add(place)
        self._equations.extents.append(Extent(self.node, place, np.empty(0), (), ids))

    def settle_numbers(self) -> None:
        """Keep computed numbers that the rule did not speak of as they are, or pin their source."""
        for position, name in enumerate(self.node.inputs):
            computed = self._equations.numbers.counted(name)
            if computed is None or position in self._told:
                continue
            if self.view.constant(name) is None:
                self.pin(computed, "reads a number that is computed from their length")
            else:
                self.extent(position)

    def otherwise(self, why: str) -> None:
        """Why axes that the rule does not mention are pinned."""
        self._otherwise = why

    def finish(self) -> None:
        """Pin what the rule did not mention."""
        for position, name in enumerate(self.node.inputs):
            if name:
                for axis in range(self.view.rank(name) or 0):
                    if (position, axis) not in self._mentioned:
                        self._equations.pass_over(name, axis, self.node, self._otherwise)
