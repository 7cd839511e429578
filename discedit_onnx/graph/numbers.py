"""Numbers that a graph computes from shapes, and which variables each of them counts.

Exporters write lengths not as constants but as Shape -> Gather -> Concat -> Reshape. When an axis
is cut, such numbers change by themselves. Whoever reads them must get the right ones, so each
element is followed back to the variables that it counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .view import Node, View

Counted = list["NDArray[np.int64] | None"]
"""For each element of a tensor, in its flat order, the variables that it depends on."""

KEEPING = frozenset(("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
"""Operators that keep elements and their order."""


class Numbers:
    """What the computed numbers of one graph count."""

    def __init__(self, view: View, axis: Callable[[str, int], NDArray[np.int64] | None]) -> None:
        self._view = view
        self._axis = axis
        self._counted: dict[str, Counted] = {}
        self._lengths: dict[str, Counted] = {}

    def counted(self, name: str) -> NDArray[np.int64] | None:
        """All variables that the elements of a number depend on, or None."""
        return _union(self._counted.get(name, []))

    def elements(self, name: str) -> Counted:
        """For each element, the variables that it depends on, or None."""
        return self._of(name, self._counted)

    def lengths(self, name: str) -> Counted:
        """For each element, the variables of the axis whose length it is, or None."""
        return self._of(name, self._lengths)

    def follow(self, node: Node) -> None:
        """Note what the outputs of a node that computes numbers depend on."""
        for known in (self._counted, self._lengths):
            found = self._follow(node, known)
            if any(ids is not None for ids in found):
                for name in node.outputs:
                    known[name] = found

    def _follow(self, node: Node, known: dict[str, Counted]) -> Counted:
        if node.op in ("Shape", "Size"):
            axes = range(self._view.rank(node.inputs[0]) or 0)
            counted = [self._axis(node.inputs[0], axis) for axis in axes]
            part = slice(node.attributes.get("start", 0), node.attributes.get("end"))
            if node.op == "Shape":
                return counted[part]
            return [_union(counted) if known is self._counted else None]
        inputs = [self._of(name, known) for name in node.inputs if name]
        if node.op in KEEPING:
            return inputs[0]
        if node.op == "Concat":
            return [ids for counted in inputs for ids in counted]
        if node.op in ("Gather", "Slice"):
            picked = self._pick(node)
            if picked is not None:
                return [inputs[0][i] for i in picked]
        size = self._size(node.outputs[0])
        if known is self._lengths:  # what is computed with a length is none any more
            return [None] * size
        return [_union([ids for counted in inputs for ids in counted])] * size

    def _of(self, name: str, known: dict[str, Counted]) -> Counted:
        return known.get(name) or [None] * self._size(name)

    def _size(self, name: str) -> int:
        lengths = self._view.facts.lengths.get(name)
        return int(np.prod(lengths[0], dtype=np.int64)) if lengths else 1

    def _pick(self, node: Node) -> list[int] | None:
        """Positions of a vector that Gather or Slice takes."""
        lists: list[list[int]] = []
        for name in node.inputs[1:]:
            constant = self._view.constant(name) if name else np.empty(0)  # left out, in its place
            if constant is None:
                return None
            lists.append(np.atleast_1d(constant).tolist())
        size = self._size(node.inputs[0])
        if self._view.rank(node.inputs[0]) != 1:
            return None
        if node.op == "Gather":
            return [i % size for i in lists[0]]
        if len(lists) < 2:
            return None
        step = lists[3][0] if len(lists) > 3 and lists[3] else 1
        return list(range(size))[lists[0][0] : lists[1][0] : step]


def _union(parts: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    found = [ids for ids in parts if ids is not None]
    return np.unique(np.concatenate(found)) if found else None
