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
    """A number that describes an axis and follows its cut.

    Attributes
    ----------
    node
        Name of the first output of the node.
    place
        Name of an attribute, or position of a constant input.
    element
        Position in a list, or None for a single number.
    value
        The new number.
    """

    node: str
    place: str | int
    element: int | None
    value: int


@dataclass(frozen=True)
class Plan:
    """All changes of one edit, bound to a model.

    Attributes
    ----------
    source
        SHA-256 of the model that it was made for.
    cuts, zeros, rewrites
        The changes; they don't overlap, so that their order doesn't matter.
    """

    source: str
    cuts: tuple[Cut, ...] = ()
    zeros: tuple[Zero, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()

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
                rewrites=tuple(Rewrite(**rewrite) for rewrite in fields["rewrites"]),
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
    rewrites = []
    for extent in coupling.extents:
        gone_count = int(coupling.gone(extent.ids, removed).sum())
        if gone_count:
            left = (len(extent.ids) - gone_count) // extent.unit
            output = extent.node.outputs[0]
            rewrites.append(Rewrite(output, extent.place, extent.element, left))
    return Plan(source, tuple(cuts), (), tuple(rewrites))


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
