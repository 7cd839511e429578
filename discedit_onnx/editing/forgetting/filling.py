"""What stands in for components that go: their mean over the retained classes, or a regression."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...calibration.placement import tap_components
from ..refit.layers import exact_layers
from .maps import LayerEdit, matrix_of
from .reads import read_of
from .spans import class_means

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ...calibration.moments import Moments
    from ...calibration.second import SecondMoments
    from ...graph.coupling import Coupling
    from ...graph.view import View
    from .reads import Read

RIDGE = 1e-3
"""Of the regression, relative to the mean variance of the channels that stay."""


def filled(
    coupling: Coupling,
    moments: Moments,
    gone: NDArray[np.bool_],
    forgotten: Sequence[int],
    edits: Sequence[LayerEdit],
    second: Mapping[str, SecondMoments],
) -> list[LayerEdit]:
    """Edits that no longer read the components that go, and make up for them.

    Where there are second moments of a tensor, its missing channels are predicted from those that
    stay, by ridge regression; else each is replaced by its mean. Both are centred at the mean over
    the retained classes, so that these lose least.

    Parameters
    ----------
    coupling
        Of the model.
    moments
        Of the model.
    gone
        Components, shape (components,).
    forgotten
        Entries of the moments.
    edits
        What acts on the same inputs; it comes behind the filling.
    second
        By tensor; best of retained images only. None at all will do.
    """
    view = coupling.view
    known = {edit.layer: edit for edit in edits}
    for layer in exact_layers(view):
        read = read_of(view, moments, layer)
        if read is None or layer.groups != 1:
            continue
        component = tap_components(coupling, read.tap)
        missing = (component >= 0) & np.append(gone, False)[component]
        if not missing.any():
            continue
        retained = np.setdiff1d(np.flatnonzero(moments.count), forgotten)
        mean = class_means(moments, read.tap)[retained].mean(axis=0)
        fill, offset = _fill(second.get(read.tap.tensor), missing, mean)
        nothing = LayerEdit(layer, None, None, np.zeros(matrix_of(view, layer).shape[1]))
        known[layer] = _in_front(view, known.get(layer, nothing), read, fill, offset)
    return list(known.values())


def _in_front(
    view: View, edit: LayerEdit, read: Read, fill: NDArray[np.float64], offset: NDArray[np.float64]
) -> LayerEdit:
    """An edit that reads ``x @ fill + offset``, by channels, where it read x."""
    shift = read.at_places(offset) @ edit.read(matrix_of(view, edit.layer))
    if edit.after is not None:
        shift = shift @ edit.after
    before, places = fill, edit.places
    if edit.before is None:
        places = read.places
    elif places is not None:
        before = fill @ edit.before
    else:
        before = read.mapped(fill) @ edit.before
    return replace(edit, before=before, places=places, shift=edit.shift + shift)


def _fill(
    second: SecondMoments | None, missing: NDArray[np.bool_], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map (C, C) and offset (C,): what stays as it is, and what is put in for the rest."""
    fill = np.diag((~missing).astype(np.float64))
    offset = np.where(missing, mean, 0.0)
    if second is not None:
        comoment = second.comoment
        stays = comoment[np.ix_(~missing, ~missing)]
        ridge = RIDGE * np.trace(stays) / max(len(stays), 1) + np.finfo(float).tiny
        system = stays + ridge * np.eye(len(stays))
        predicted = np.linalg.solve(system, comoment[np.ix_(~missing, missing)])
        fill[np.ix_(~missing, missing)] = predicted
        offset[missing] -= mean[~missing] @ predicted
    return fill, offset
