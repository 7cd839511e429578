"""Components and groups: the connected components of what the rules said."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .axes import Reach
from .choices import tie_idle
from .components import connected_components
from .solving import solve
from .view import View, parameters_inside

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from .axes import Block, Contraction, Equations, Extent

    _Solved = tuple[Equations, NDArray[np.int64], NDArray[np.bool_]]


@dataclass(frozen=True)
class Group:
    """Components that meet the same axes of the same constants, ranked together.

    Where an axis is split, they also meet the same parts of it: while one component of each group
    is kept, no axis of any tensor becomes empty.

    Attributes
    ----------
    name
        The constant that comes first in the graph among those that they meet.
    components
        Their numbers, ascending.
    axes
        (constant, axis) that they meet, in the order of the graph.
    """

    name: str
    components: NDArray[np.int64]
    axes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Pinned:
    """What one node, or the graph's output, holds back.

    Attributes
    ----------
    where
        Operator and name of the node; empty for the graph's inputs and outputs.
    why
        The reason.
    tensors
        Constants of which some indices can't be removed for it.
    indices
        How many, over all axes.
    """

    where: str
    why: str
    tensors: tuple[str, ...]
    indices: int


@dataclass(frozen=True)
class Coupling:
    """What of a model can be removed, and together with what.

    Components are numbered from 0, group by group; -1 stands for what can't be removed.

    Attributes
    ----------
    view
        The graph.
    labels
        Connected component of each variable, shape (variables,).
    component
        Number of the removable component of each variable, or -1, shape (variables,).
    groups
        All groups, in the order of the graph.
    equations
        What the rules said.
    """

    view: View
    labels: NDArray[np.int64]
    component: NDArray[np.int64]
    groups: tuple[Group, ...]
    equations: Equations

    @property
    def blocks(self) -> list[Block]:
        """Axes of constants that have variables."""
        return self.equations.blocks

    @property
    def contractions(self) -> list[Contraction]:
        """Where components disappear."""
        return self.equations.contractions

    @property
    def extents(self) -> list[Extent]:
        """Numbers that follow a cut."""
        return self.equations.extents

    @cached_property
    def size(self) -> int:
        """Number of components."""
        return sum(len(group.components) for group in self.groups)

    @cached_property
    def group_of(self) -> NDArray[np.int64]:
        """Group of each component, shape (components,)."""
        lengths = [len(group.components) for group in self.groups]
        return np.repeat(np.arange(len(self.groups)), lengths)

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Components of some variables; -1 where they can't be removed."""
        return self.component[ids]

    def gone(self, ids: NDArray[np.int64], removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of some variables belong to a removed component.

        Parameters
        ----------
        ids
            Variables.
        removed
            Shape (components,).
        """
        return np.append(removed, False)[self.component[ids]]

    def left(self, name: str, axis: int, removed: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """Which indices of an axis of a computed tensor are left; None if nothing can go there.

        Parameters
        ----------
        name, axis
            Of the tensor.
        removed
            Shape (components,).
        """
        axes = self.equations.axes.get(name)
        ids = axes[axis] if axes else None
        return None if ids is None else ~self.gone(ids, removed)

    @cached_property
    def silenceable(self) -> NDArray[np.bool_]:
        """Components that constants multiply wherever they disappear, shape (components,).

        Setting these constants to zero silences them without removing them.
        """
        able = np.ones(self.size + 1, dtype=bool)
        for contraction in self.contractions:
            if contraction.weights is None:
                able[self.of(contraction.ids)] = False
        return able[:-1]

    @cached_property
    def inexact(self) -> NDArray[np.bool_]:
        """Components whose removal changes what is left, shape (components,)."""
        loose = np.zeros(self.size + 1, dtype=bool)
        for ids in self.equations.loose:
            loose[self.of(ids)] = True
        return loose[:-1]

    @cached_property
    def tensors(self) -> tuple[tuple[str, ...], ...]:
        """For each group, the computed tensors that its components run through."""
        through: dict[int, dict[str, None]] = {i: {} for i in range(len(self.groups))}
        for name, axes in self.equations.axes.items():
            for ids in axes:
                if ids is not None and name in self.view.varying:
                    components = self.of(ids)
                    for group in np.unique(self.group_of[components[components >= 0]]):
                        through[int(group)][name] = None
        return tuple(tuple(names) for names in through.values())

    @cached_property
    def pinned(self) -> tuple[Pinned, ...]:
        """What can't be removed, by what holds it, the greatest first."""
        labels, blocks = self.labels, self.blocks
        reasons: dict[tuple[str, str], list[NDArray[np.int64]]] = defaultdict(list)
        for pin in self.equations.pins:
            where = f"{pin.node.op} {pin.node.label}" if pin.node else ""
            reasons[where, pin.why].append(labels[pin.ids])
        found = []
        for (where, why), parts in reasons.items():
            held = np.zeros(labels.max() + 1, dtype=bool)
            held[np.concatenate(parts)] = True
            counts = [(b.tensor, int(held[labels[b.start : b.stop]].sum())) for b in blocks]
            tensors = tuple(dict.fromkeys(tensor for tensor, count in counts if count))
            if tensors:
                found.append(Pinned(where, why, tensors, sum(count for _, count in counts)))
        inside: dict[str, list[onnx.TensorProto]] = defaultdict(list)
        for where, tensor in parameters_inside(self.view.proto):
            inside[where].append(tensor)
        for where, tensors_inside in inside.items():
            indices = sum(sum(tensor.dims) for tensor in tensors_inside)
            names = tuple(tensor.name for tensor in tensors_inside)
            found.append(Pinned(where, "holds weights inside, which are not cut", names, indices))
        return tuple(sorted(found, key=lambda pinned: -pinned.indices))


def analyse(proto: onnx.ModelProto, reach: Reach = Reach()) -> Coupling:  # noqa: B008  (frozen)
    """Find out what of a model can be removed.

    Every index of every axis that can carry components is a variable; operators equate and pin
    variables, and connected components of these equations are removed as a whole or not at all.

    Parameters
    ----------
    proto
        A model; it is not changed.
    reach
        What may be cut beyond the default.

    Returns
    -------
    Coupling
        Its components and groups, and what is pinned.
    """
    view = View(proto)
    equations, labels, free = _inside_or_whole(view, reach)
    members = _members(equations, labels, free)
    by_signature: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for label, blocks in members.items():
        by_signature[blocks].append(label)
    number = np.full(len(free), -1)
    groups: list[Group] = []
    for signature, group_labels in sorted(by_signature.items()):
        start = sum(len(group.components) for group in groups)
        components = np.arange(start, start + len(group_labels))
        number[group_labels] = components
        groups.append(_group(equations, signature, components))
    return Coupling(view, labels, number[labels], tuple(groups), equations)


def _labels(equations: Equations) -> NDArray[np.int64]:
    """Connected component of each variable."""
    pairs = [np.stack([a.ravel(), b.ravel()]) for a, b in equations.edges]
    a, b = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
    return connected_components(a, b, equations.count)


def _inside_or_whole(view: View, reach: Reach) -> _Solved:
    """What the rules said: whole heads go where nothing inside them, or met by them, can."""
    solved = _solved(view, reach)
    whole: set[int] = set()
    heads: dict[int, set[int]] = {}
    while reach.inside_heads:
        equations, labels, free = solved
        stuck = {index for index, ids in equations.splits if not free[labels[ids]].any()} - whole
        if not stuck:
            break
        heads = heads or _heads(_solved(view, replace(reach, inside_heads=False)))
        while stuck:
            whole |= stuck
            met = set().union(*(heads.get(index, ()) for index in stuck))
            stuck = {index for index in heads if met & heads[index]} - whole
        solved = _solved(view, reach, frozenset(whole))
    return solved


def _heads(solved: _Solved) -> dict[int, set[int]]:
    """For each node that splits an axis, the connected components of what can be removed of it."""
    equations, labels, free = solved
    found: dict[int, set[int]] = defaultdict(set)
    for index, ids in equations.splits:
        found[index].update(label for label in np.unique(labels[ids]).tolist() if free[label])
    return found


def _solved(view: View, reach: Reach, whole: frozenset[int] = frozenset()) -> _Solved:
    """What the rules said, the connected component of each variable, and which can be removed."""
    equations = solve(view, reach, whole)
    labels = _labels(equations)
    if equations.choices:
        tie_idle(equations, labels, _free(equations, labels))
        labels = _labels(equations)
    return equations, labels, _free(equations, labels)


def _free(equations: Equations, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which connected components can be removed: nothing pins a variable of theirs."""
    free = np.ones(labels.max(initial=-1) + 1, dtype=bool)
    for pin in equations.pins:
        free[labels[pin.ids]] = False
    return free


def _members(
    equations: Equations, labels: NDArray[np.int64], free: NDArray[np.bool_]
) -> dict[int, tuple[int, ...]]:
    """The blocks that each free label meets, and after them the parts of split axes.

    What meets no block, such as padding that nothing reads, is nothing that could be cut.
    """
    if not equations.blocks:
        return {}
    runs = [np.arange(b.start, b.stop) for b in equations.blocks] + equations.parts
    variables = np.concatenate(runs)
    run = np.repeat(np.arange(len(runs)), [len(ids) for ids in runs])
    # As one number each, pairs are sorted in a tenth of the time.
    known = np.unique((labels[variables] * len(runs) + run)[free[labels[variables]]])
    pairs = np.stack(np.divmod(known, len(runs)), axis=1)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    parts = np.split(pairs, starts[1:]) if len(starts) else []
    meeting = (part for part in parts if part[0, 1] < len(equations.blocks))
    return {int(part[0, 0]): tuple(part[:, 1].tolist()) for part in meeting}


def _group(
    equations: Equations, signature: tuple[int, ...], components: NDArray[np.int64]
) -> Group:
    """A group, named after the first weight (not bias or statistic) that it meets."""
    blocks = [equations.blocks[i] for i in signature if i < len(equations.blocks)]
    dims = equations.view.initializers
    named = next((b for b in blocks if len(dims[b.tensor].dims) > 1), blocks[0])
    return Group(named.tensor, components, tuple((b.tensor, b.axis) for b in blocks))
