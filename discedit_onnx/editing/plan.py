"""A plan is data: what an edit changes in a model, by name and index."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        The new numbers; none where the input is left out.
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


@dataclass(frozen=True)
class Plan:
    """All changes of one edit, bound to a model.

    Attributes
    ----------
    source
        SHA-256 of the model that it was made for.
    cuts, zeros, rewrites
        The changes; they don't overlap, so that their order doesn't matter.
    exact
        Whether the edited model equals the masked one. It can't where a layer normalisation
        takes its statistics over fewer indices than before.
    """

    source: str
    cuts: tuple[Cut, ...] = ()
    zeros: tuple[Zero, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    exact: bool = True

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.cuts or self.zeros or self.rewrites)

    def to_json(self) -> str:
        """JSON text that `from_json` reads back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises
        ------
        DataError
            If the text is no plan.
        """
        try:
            fields = json.loads(text)
            return cls(
                source=fields["source"],
                cuts=tuple(Cut(**_indexed(cut)) for cut in fields["cuts"]),
                zeros=tuple(Zero(**_indexed(zero)) for zero in fields["zeros"]),
                rewrites=tuple(
                    Rewrite(**{**r, "values": tuple(r["values"]), "shape": tuple(r["shape"])})
                    for r in fields["rewrites"]
                ),
                exact=fields["exact"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a plan: {error}") from error


def _indexed(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "indices": tuple(fields["indices"])}


def plan_removal(coupling: Coupling, removed: NDArray[np.bool_], source: str) -> Plan:
    """Cut components out: every index of every constant that belongs to them.

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
    found = (_rewrite(coupling, extent, removed) for extent in coupling.extents)
    rewrites = [rewrite for rewrite in found if rewrite is not None]
    exact = not (removed & coupling.inexact).any()
    return Plan(source, tuple(cuts), (), tuple(rewrites), bool(exact))


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
    return Plan(source, zeros=tuple(_zeros(coupling, variables)))


def _zeros(coupling: Coupling, variables: NDArray[np.int64]) -> Iterable[Zero]:
    for block in coupling.blocks:
        inside = variables[(variables >= block.start) & (variables < block.stop)] - block.start
        if len(inside):
            yield Zero(block.tensor, block.axis, tuple(inside.tolist()))
