"""Axis variables: which indices of which axes must be removed together.

Every index of every axis that can carry components is an integer variable. A rule for each
operator says which variables are equal and which are pinned; connected components of these
equations are what can be removed (see `coupling.py`). Rules speak through a `Scope` (see
`scope.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .numbers import Numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .view import Node, View


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


@dataclass(frozen=True)
class Choice:
    """A node needs all of an axis, but what reads it does not.

    Attributes
    ----------
    tensor, axis
        What the node makes, and along which axis.
    whole, ids
        Variables of what goes in, and of what comes out.
    """

    tensor: str
    axis: int
    whole: NDArray[np.int64]
    ids: NDArray[np.int64]


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
        if name in self.view.parameters:
            for axis in range(len(self.view.initializers[name].dims)):
                self.pin(self.axis(name, axis), node, why)

    def close(self) -> None:
        """Pin the graph's outputs, and what was passed over but got variables elsewhere."""
        for name in self.view.outputs:
            self.pin_tensor(name, None, "graph output")
        for key, (node, why) in self._passed_over.items():
            if key in self._allocated:
                self.pin(self._allocated[key], node, why)
