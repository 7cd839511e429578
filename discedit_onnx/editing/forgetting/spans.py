"""Level features: what of a class's mean lies outside the span of the retained means.

Removed from the input of the later layers, more strongly with depth (DAMP, 2026), and folded into
their weights. It needs the class means only, so a moments file is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ..refit.goals import find_goal, is_dead
from ..refit.layers import exact_layers
from .maps import LayerEdit, at_input, bias_of, matrix_of, product
from .reads import read_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...calibration.moments import Moments
    from ...calibration.taps import Tap
    from ...graph.view import View
    from ..refit.layers import Layer

FOLLOWED = frozenset(
    ("AveragePool", "Clip", "Dropout", "Elu", "Gelu", "HardSwish", "Identity", "LeakyRelu",
     "MaxPool", "PRelu", "Relu", "Sigmoid", "Softplus", "Tanh")
)  # fmt: skip
"""Operators that keep channels apart."""

LATER = 1 / 3
"""Share of the layers, counted from the end, that a class is projected out of."""
WEAK = 1e-3
"""Variance of the retained means, relative to its mean over directions, below which a direction
does not count as spanned by them."""


def span_edits(
    view: View, moments: Moments, forgotten: Sequence[int], head: Layer, strength: float
) -> list[LayerEdit]:
    """Projections in front of the later layers, without the head.

    Parameters
    ----------
    view
        Of the model.
    moments
        Of the model.
    forgotten
        Indices of classes in the moments.
    head
        Is left out.
    strength
        Share of the class's part that is removed in front of the head; proportionally less in
        layers before. Above 1 it is turned round.

    Raises
    ------
    DataError
        If the moments know none of the classes, or nothing of what the later layers read, or
        there are no such layers.
    """
    edits, looked_at = [], 0
    for layer, depth in later_layers(view, head):
        read, written = read_of(view, moments, layer), tap_behind(view, moments, layer)
        if read is None:
            continue
        looked_at += 1
        basis, centre = off_span(class_means(moments, read.tap), moments.count, forgotten)
        removed = strength * depth * basis @ basis.T
        before, offset = np.eye(len(removed)) - removed, centre @ removed
        edit = at_input(view, layer, before, offset, read.places)
        if written is not None:
            off, _ = off_span(class_means(moments, written), moments.count, forgotten)
            edit = _at_output(view, edit, strength * depth * off @ off.T, centre)
        if basis.shape[1]:
            edits.append(edit)
    if not looked_at:
        raise DataError(
            "nothing to edit: moments tell class means where something can be removed, and "
            "nothing of what the later layers read; use --method svd with --data, or --level head"
        )
    if not edits:
        raise DataError(
            "nothing to edit: what the later layers read does not tell the class from the others; "
            "calibrate with images of all classes, or use --level head"
        )
    return edits


def _at_output(
    view: View, edit: LayerEdit, removed: NDArray[np.float64], centre: NDArray[np.float64]
) -> LayerEdit:
    """Take the class out of what a layer writes, too.

    On a residual spine nothing else would: what later layers do not read is still carried on.

    Parameters
    ----------
    view
        Of the model.
    edit
        What is done in front of the layer; it leaves `centre` where it is.
    removed
        What goes, behind a batch normalisation if there is one, (K, K).
    centre
        Mean of what the layer reads, over the retained classes, (C,).
    """
    layer = edit.layer
    mean = product(view, layer, centre, edit.places)
    mean = mean + bias_of(view, layer, len(mean))
    scale = np.broadcast_to(find_goal(view, layer).scale, mean.shape)
    # Of a channel that is multiplied with nothing, nothing is seen behind the normalisation.
    seen = scale[:, None] * removed / np.where(is_dead(scale), np.inf, scale)
    after = np.eye(len(mean)) - seen
    return LayerEdit(layer, edit.before, after, edit.shift @ after + mean @ seen, edit.places)


def later_layers(view: View, head: Layer) -> list[tuple[Layer, float]]:
    """The last third of the layers, with their depth in it, which is 1 at the head.

    Grouped convolutions are left out: a projection mixes channels that different groups read. It is
    the last layer that is not one where the last third holds no other.

    Raises
    ------
    DataError
        If there are none.
    """
    layers = list(exact_layers(view))
    end = layers.index(head)
    first = end - round(LATER * end)
    later = [
        (layer, (number - first + 1) / (end - first + 1))
        for number, layer in enumerate(layers[:end])
        if number >= first and layer.groups == 1 and layer.op != "ConvTranspose"
    ]
    if not later:  # in a small network, or where the last ones are grouped
        able = [each for each in layers[:end] if each.groups == 1 and each.op != "ConvTranspose"]
        later = [(layer, 1 / 2) for layer in able[-1:]]
    if not later:
        raise DataError(
            "nothing to edit: none of the later layers before the head has weights that can be "
            "changed for it alone; use --level head"
        )
    return later


def class_means(moments: Moments, tap: Tap) -> NDArray[np.float64]:
    """Class means (K, C) of a tap's channels."""
    return moments.select(["mean"]).mean[:, moments.slices[tap.tensor], 0]


def tap_behind(view: View, moments: Moments, layer: Layer) -> Tap | None:
    """The tap that sees, behind addition and activation, what a layer writes."""
    taps = {tap.tensor: tap for tap in moments.taps}
    name = find_goal(view, layer).tensor
    width = matrix_of(view, layer).shape[1]
    while name not in taps:
        nodes = [node for node, _ in view.consumers[name] if not node.domain]
        behind = [node.outputs[0] for node in nodes if node.op in FOLLOWED]
        if len(behind) != 1:
            return None
        (name,) = behind
    return taps[name] if taps[name].length == width else None


def off_span(
    means: NDArray[np.float64], count: NDArray[np.int64], forgotten: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What of some classes' means the means of the others do not span.

    Parameters
    ----------
    means
        Shape (K, C).
    count
        Images of each class; a class without images has no mean.
    forgotten
        The classes.

    Returns
    -------
    basis : float64 (C, r)
        Orthonormal; r is at most the number of the classes.
    centre : float64 (C,)
        Mean of the retained classes' means.
    """
    retained = np.setdiff1d(np.flatnonzero(count), forgotten)
    known = [k for k in forgotten if count[k]]
    centre = means[retained].mean(axis=0)
    spanned, excess = means[retained] - centre, means[known] - centre
    _, scale, rows = np.linalg.svd(spanned, full_matrices=False)
    variance = scale**2
    # With more classes than channels the means span everything, weakly in most directions.
    weak = WEAK * variance.sum() / max(1, min(len(retained) - 1, means.shape[1]))
    share = variance / (variance + weak) if weak > 0 else np.zeros_like(variance)
    outside = excess - ((excess @ rows.T) * share) @ rows
    _, size, basis = np.linalg.svd(outside, full_matrices=False)
    least = 1e-6 * max(np.abs(means).max(initial=0), np.finfo(float).tiny)
    return basis[size > least].T, centre
