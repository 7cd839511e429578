"""DisCEdit-SP: remove the components that tell no classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, UsageError
from ..graph.axes import Reach
from ..graph.coupling import analyse
from ..scoring.saliency import DEFAULT_WITNESS, saliency, score
from ..scoring.weights import chance, magnitude
from ..scoring.witness import WITNESSES
from .budget import choose
from .edit import carry_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..calibration.images import Images
    from ..calibration.moments import Moments
    from ..graph.coupling import Coupling
    from ..model import Model
    from .edit import Edit

DATA_FREE = ("l1", "l2", "random")
"""Criteria that need no calibration."""


def criteria() -> tuple[str, ...]:
    """Names of everything that components can be ranked by."""
    return (*WITNESSES, *DATA_FREE)


def prune(
    model: Model,
    moments: Moments | None = None,
    *,
    sparsity: float,
    criterion: str = DEFAULT_WITNESS,
    seed: int = 0,
    inexact: bool = False,
    inside_heads: bool = False,
    images: Images | None = None,
    device: str = "auto",
) -> Edit:
    """Remove the least discriminative components of a model.

    Parameters
    ----------
    model
        The model; not changed.
    moments
        Of this model; needed by the witnesses.
    sparsity
        Share of the model's parameters to remove, in [0, 1).
    criterion
        A witness of `scoring.witness.WITNESSES`; or "l1", "l2" (filter norms, relative to their
        layer's mean), "random".
    seed
        For "random".
    inexact
        Also remove widths that a layer normalisation takes its statistics over; the result then
        differs from the masked original, and only the difference is reported.
    inside_heads
        Remove the same dimensions in every attention head, not whole heads.
    images
        For the proof of equality; random inputs where there are none.
    device
        "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    Edit
        The edited model, proved equal to the masked original.

    Raises
    ------
    UsageError
        If the criterion is unknown, or the graph does not allow this sparsity.
    DataError
        If a witness is asked for without moments, or the moments are of another model.
    GateError
        If the result is not equal to the masked original.
    """
    coupling = analyse(model.proto, Reach(inexact, inside_heads))
    check_request(coupling, sparsity, criterion)
    ranking = _rank(model, coupling, moments, criterion, seed)
    removed = choose(coupling, ranking, sparsity)
    return carry_out(model, coupling, removed, remove=True, images=images, device=device)


def check_request(coupling: Coupling, sparsity: float, criterion: str) -> None:
    """Refuse what can't be done, before time is spent on calibration.

    Raises
    ------
    UsageError
        If the criterion is unknown, or the graph does not allow this sparsity.
    """
    if criterion not in criteria():
        known = ", ".join(criteria())
        raise UsageError(f"no criterion named {criterion!r}; there are {known}")
    choose(coupling, np.zeros(coupling.size), sparsity)


def _rank(
    model: Model, coupling: Coupling, moments: Moments | None, criterion: str, seed: int
) -> NDArray[np.float64]:
    if criterion in ("l1", "l2"):
        return magnitude(coupling, int(criterion[1]))
    if criterion == "random":
        return chance(coupling, seed)
    return saliency(score(model, coupling, require(moments, criterion), criterion))


def require(moments: Moments | None, purpose: str) -> Moments:
    """The moments, or an error that says how to get them."""
    if moments is None:
        raise DataError(f"{purpose} needs calibration: give --data or --moments")
    return moments
