"""A plan is data: what an edit changes in a model, by name and index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph.axes import Reach

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from ..graph.axes import Extent
    from ..graph.coupling import Coupling


@dataclass(frozen=True)
class Cut:
    """Indices of one axis of a constant that are taken out."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Pick:
    """Indices of one axis of what a node makes that are kept, where the node needs them all."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Zero:
    """Indices of one axis of a constant that are set to zero."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Rewrite:
    """Numbers that describe axes and follow their cuts.

    Attributes
    ----------
    node
        Name of the first output of the node.
    place
        Name of an attribute, or position of an input, which becomes a constant.
    values
        The new numbers; none where the attribute or the input is left out.
    shape
        Their shape; () for a single number.
    dtype
        Their NumPy type.
    """

    node: str
    place: str | int
    values: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Update:
    """New values of a constant.

    Attributes
    ----------
    tensor
        Its name.
    values
        Of its type, and of the shape that it has after the cuts.
    """

    tensor: str
    values: NDArray[Any]

    def __eq__(self, other: object) -> bool:
        """The same tensor gets the same bytes."""
        if not isinstance(other, Update):
            return NotImplemented
        return self.tensor == other.tensor and same(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Bias:
    """A bias for a linear layer that has none.

    Attributes
    ----------
    node
        Name of the first output of a Conv, ConvTranspose, Gemm or MatMul.
    values
        Of the weight's type, one for each output channel that is left after the cuts.
    """

    node: str
    values: NDArray[Any]

    def __eq__(self, other: object) -> bool:
        """The same node gets the same bytes."""
        if not isinstance(other, Bias):
            return NotImplemented
        return self.node == other.node and same(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes; what is not a number equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@dataclass(frozen=True)
class Plan:
    """All changes of one edit, bound to a model.

    Attributes
    ----------
    source
        SHA-256 of the model that it was made for.
    cuts, zeros, rewrites
        The changes; they don't overlap, so that their order doesn't matter.
    updates, biases
        New values, which hold after all other changes.
    picks
        What is kept behind nodes that are not cut themselves.
    reach
        What the analysis that it was made with allowed.
    exact
        Whether the edited model equals the masked one. It can't where a layer normalisation
        takes its statistics over fewer indices than before.
    moments
        SHA-256 of the moments that it was made by, see `lineage.hash_of`; empty for none.
    forgotten
        Names of the classes that it is to make the model forget.
    """

    source: str
    cuts: tuple[Cut, ...] = ()
    zeros: tuple[Zero, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    updates: tuple[Update, ...] = ()
    biases: tuple[Bias, ...] = ()
    picks: tuple[Pick, ...] = ()
    reach: Reach = Reach()  # noqa: RUF009  (frozen)
    exact: bool = True
    moments: str = ""
    forgotten: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.cuts or self.zeros or self.rewrites or self.updates or self.biases)

    @property
    def changed(self) -> set[str]:
        """Names of the constants that it changes, and of outputs of the nodes that it changes."""
        tensors: tuple[Cut | Zero | Update | Pick, ...]
        tensors = (*self.cuts, *self.zeros, *self.updates, *self.picks)
        nodes: tuple[Rewrite | Bias, ...] = (*self.rewrites, *self.biases)
        return {change.tensor for change in tensors} | {change.node for change in nodes}

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write it; see `plan_file.save_plan`."""
        from .plan_file import save_plan

        save_plan(self, path, force)


def plan_removal(coupling: Coupling, removed: NDArray[np.bool_], source: str) -> Plan:
    """Cut components out: every index of every constant that belongs to them.

    Behind a node that needs an axis whole, what is kept of it is picked.

    Parameters
    ----------
    coupling
        Of the model.
    removed
        Shape (components,).
    source
        SHA-256 of the model.
    """
    cuts = []
    for block in coupling.blocks:
        gone = np.flatnonzero(coupling.gone(np.arange(block.start, block.stop), removed))
        if len(gone):
            cuts.append(Cut(block.tensor, block.axis, tuple(gone.tolist())))
    picks = []
    for choice in coupling.equations.choices:
        kept = ~coupling.gone(choice.ids, removed)[~coupling.gone(choice.whole, removed)]
        if not kept.all():
            picks.append(Pick(choice.tensor, choice.axis, tuple(np.flatnonzero(kept).tolist())))
    found = (_rewrite(coupling, extent, removed) for extent in coupling.extents)
    rewrites = [rewrite for rewrite in found if rewrite is not None]
    exact = not (removed & coupling.inexact).any()
    return Plan(
        source,
        tuple(cuts),
        rewrites=tuple(rewrites),
        picks=tuple(picks),
        reach=coupling.equations.reach,
        exact=bool(exact),
    )


def _rewrite(coupling: Coupling, extent: Extent, removed: NDArray[np.bool_]) -> Rewrite | None:
    """The numbers of an extent after a cut, where it changes what is counted or computed."""
    values = extent.base.copy()
    changed = extent.depends is not None and bool(coupling.gone(extent.depends, removed).any())
    for count in extent.counts:
        gone = int(coupling.gone(count.ids, removed).sum())
        if gone:
            values.reshape(-1)[count.element] = (len(count.ids) - gone) // count.unit
            changed = True
    if not changed:
        return None
    return Rewrite(
        node=next(name for name in extent.node.outputs if name),
        place=extent.place,
        values=tuple(values.reshape(-1).tolist()),
        shape=values.shape,
        dtype=values.dtype.name,
    )


def plan_zeroing(coupling: Coupling, silenced: NDArray[np.bool_], source: str) -> Plan:
    """Zero components where they are consumed: the weights that multiply them.

    What a component feeds then gets nothing from it, whatever its value: the same as a mask on
    the consumer's input.

    Parameters
    ----------
    coupling
        Of the model.
    silenced
        Shape (components,).
    source
        SHA-256 of the model.
    """
    weights = [c.weights for c in coupling.contractions if c.weights is not None]
    variables = np.unique(np.concatenate(weights)) if weights else np.empty(0, dtype=np.int64)
    variables = variables[coupling.gone(variables, silenced)]
    zeros = tuple(_zeros(coupling, variables))
    return Plan(source, zeros=zeros, reach=coupling.equations.reach)


def _zeros(coupling: Coupling, variables: NDArray[np.int64]) -> Iterable[Zero]:
    for block in coupling.blocks:
        inside = variables[(variables >= block.start) & (variables < block.stop)] - block.start
        if len(inside):
            yield Zero(block.tensor, block.axis, tuple(inside.tolist()))
