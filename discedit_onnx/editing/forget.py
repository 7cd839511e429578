"""DisCEdit-U: silence or remove the components that carry a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, UsageError
from ..graph.coupling import analyse
from ..scoring.saliency import DEFAULT_WITNESS, score
from .edit import carry_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..calibration.images import Images
    from ..calibration.moments import Moments
    from ..graph.coupling import Coupling
    from ..model import Model
    from ..scoring.saliency import Scores
    from .edit import Edit

DEFAULT_SHARE = 0.08
"""Share of the later layers' components that is edited; see docs/forgetting.md."""
LATER = 0.5
"""A component is in the later layers if it is first consumed in the last half of the taps."""


def forget(
    model: Model,
    moments: Moments,
    classes: Sequence[int | str],
    *,
    share: float = DEFAULT_SHARE,
    witness: str = DEFAULT_WITNESS,
    remove: bool = False,
    images: Images | None = None,
    device: str = "auto",
) -> Edit:
    """Silence the components in the later layers that are most specific to some classes.

    Parameters
    ----------
    model
        The model; not changed.
    moments
        Of this model.
    classes
        Indices or names.
    share
        Share of the later layers' components that is edited for each class, in (0, 1).
    witness
        A name in `scoring.witness.WITNESSES`.
    remove
        Cut the components out; otherwise the weights that consume them are set to zero.
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
        If a class is unknown, all classes are to be forgotten, or `share` is out of range.
    DataError
        If the moments are of another model, or no component is specific to the classes.
    GateError
        If the result is not equal to the masked original.
    """
    coupling = analyse(model.proto)
    scores = score(model, coupling, moments, witness)
    chosen = check_request(scores.class_names, classes, share)
    candidates = later(scores) & (coupling.silenceable | remove)
    edited = np.zeros(coupling.size, dtype=bool)
    for index in chosen:
        edited |= most_specific(specificity(scores, index, chosen), candidates, share)
    edited = spare_one(coupling, edited, specificity(scores, chosen[0], chosen))
    if not edited.any():
        names = ", ".join(scores.class_names[index] for index in chosen)
        raise DataError(
            f"nothing to edit: no component of the later layers fires more for {names} than for "
            "the other classes; calibrate with more images of it"
        )
    return carry_out(model, coupling, edited, remove=remove, images=images, device=device)


def check_request(names: Sequence[str], classes: Sequence[int | str], share: float) -> list[int]:
    """Indices of the classes to forget, each once, where the request makes sense.

    Raises
    ------
    UsageError
        If a class is unknown, none or all are to be forgotten, or `share` is out of range.
    """
    if not 0 < share < 1:
        raise UsageError(f"share {share:g} is not in (0, 1)")
    chosen = list(dict.fromkeys(find_class(names, wanted) for wanted in classes))
    if not chosen:
        raise UsageError("no class to forget was named; give at least one")
    if len(chosen) >= len(names):
        raise UsageError("all classes are to be forgotten; leave at least one")
    return chosen


def find_class(names: Sequence[str], wanted: int | str) -> int:
    """Index of a class that is given by index or by name.

    Raises
    ------
    UsageError
        If there is no such class; the message lists those that there are.
    """
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    try:
        index = int(wanted)
    except ValueError:
        index = -1
    if not 0 <= index < len(names):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:12]))
        more = ", ..." if len(names) > 12 else ""
        raise UsageError(f"no class {wanted!r}; there are {known}{more}")
    return index


def later(scores: Scores) -> NDArray[np.bool_]:
    """Components that are first consumed in the last half of the taps, shape (components,)."""
    tap = np.repeat(np.arange(len(scores.taps)), [tap.length for tap in scores.taps])
    first = np.full(scores.components, -1)
    seen = scores.component >= 0
    # In reverse, so that the first tap of a component is written last.
    first[scores.component[seen][::-1]] = tap[seen][::-1]
    return first >= LATER * len(scores.taps)


def specificity(scores: Scores, index: int, forgotten: Sequence[int]) -> NDArray[np.float64]:
    """How much more a component says of one class than of the average class to be retained.

    Bounds count where the component fires more for a class than for the rest; one that fires
    less carries the class's absence, and silencing it would help the class.

    Returns
    -------
    ndarray of float64, shape (components,)
        In [-1, 1].
    """
    positive = scores.per_component(scores.bounds * (scores.signs > 0))
    retained = np.delete(positive, list(forgotten), axis=1)
    excess: NDArray[np.float64] = positive[:, index] - retained.mean(axis=1)
    return excess


def most_specific(
    values: NDArray[np.float64], candidates: NDArray[np.bool_], share: float
) -> NDArray[np.bool_]:
    """The candidates with the greatest positive values, at most a share of them."""
    count = max(1, round(share * int(candidates.sum())))
    order = np.argsort(-np.where(candidates & (values > 0), values, -np.inf), kind="stable")
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order[:count]] = True
    return chosen & candidates & (values > 0)


def spare_one(
    coupling: Coupling, edited: NDArray[np.bool_], values: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Take the least specific component of a group out of the edit that would empty the group."""
    edited = edited.copy()
    for group in coupling.groups:
        if edited[group.components].all():
            edited[group.components[np.argmin(values[group.components])]] = False
    return edited
