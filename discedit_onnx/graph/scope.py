"""What a rule sees of one node, and how it speaks about the axes there.

It is safe by construction: an axis that a rule does not mention is pinned, and so is everything
that a node without a rule touches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import Choice, Contraction, Extent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .axes import Count, Equations
    from .shapes import Shape
    from .view import Node

UNKNOWN_SHAPES = "its shapes are unknown"
OTHER_LENGTH = "meets an axis of another length: only one open length of an input fits the weights"


class Unsupported(Exception):
    """Raised by a rule that can't carry components through a node; the reason is its message."""


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
            raise Unsupported(UNKNOWN_SHAPES)
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
        sources = [*touched, *(self.counted(place) if isinstance(place, int) else ())]
        if counts or sources:
            depends = np.concatenate(sources) if sources else None
            extent = Extent(self.node, place, np.asarray(base), counts, depends)
            self._equations.extents.append(extent)

    def follow(
        self, position: int, element: int, ids: NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        """Say that an element of a computed input must stay the length of an axis, or as it is.

        What that length is of is cut like the axis then, and the number is right by itself. To be
        said of every element.
        """
        self._told.add(position)
        numbers, name = self._equations.numbers, self.node.inputs[position]
        length = numbers.lengths(name)[element]
        if ids is not None and length is not None:
            return self.equate(ids, length)
        self.pin(numbers.elements(name)[element], "reads a number that is computed from its length")
        if ids is not None:
            self.pin(ids, "reads a number that does not follow its length")
        return None

    def leave_out(self, place: str | int, ids: NDArray[np.int64]) -> None:
        """Say that an attribute or an input does nothing, and goes as soon as any of these does."""
        if isinstance(place, int):
            self._mentioned.update((place, axis) for axis in range(len(self.shape(place))))
        self._told.add(place)
        self._equations.extents.append(Extent(self.node, place, np.empty(0), (), ids))

    def counted(self, position: int) -> list[NDArray[np.int64]]:
        """The variables that a computed number counts, if it counts any."""
        name = self.node.inputs[position] if self.has(position) else ""
        computed = self._equations.numbers.counted(name)
        return [] if computed is None else [computed]

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
